"""Events: what is judged together, on which rows, by when, and who takes part. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    model_serializer,
    model_validator,
)

from touchstone.core.data_sets import (
    CANNED,
    CANNED_BARS,
    Version,
)
from touchstone.core.documents import Line, explain, read_toml, shorten
from touchstone.core.folds import (
    MOST_FOLDS,
    check_fold_days,
)
from touchstone.core.names import is_submission_id
from touchstone.core.schedule import (
    DEFAULT_EVENT,
    EVENT_PATTERN,
    MAX_EVENT,
    MAX_ID,
    MAX_INTERVAL,
    MAX_INTERVALS,
    MAX_SEEDS,
)
from touchstone_agent.protocol.errors import ConfigurationError, PermanentError

SCHEMA_VERSION: Final = 1
DEFAULT: Final = DEFAULT_EVENT
"""The event of a schedule that names none; it exists also where no file describes it."""
FLAT: Final = "flat"
"""A baseline that holds nothing."""
MAX_NAME: Final = MAX_EVENT
MAX_PROBLEM: Final = 4000
MAX_PARTICIPANTS: Final = 1000
MAX_ARRIVALS: Final = 1000
MAX_QUOTA: Final = 1000
MAX_HOURS: Final = 24 * 366
_NAME = re.compile(EVENT_PATTERN)
NO_FOLDS_THERE: Final = "the server that holds the data judges the data set's own rows alone"


class EventRefused(ConfigurationError):
    """An event does not take a submission; the message says from when on it does."""


class EventClosed(PermanentError):
    """An event has been closed, and what is asked for can no longer be done."""


def _check_aware(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("has no zone; write it as 2026-12-01T00:00:00Z")
    return value.astimezone(UTC)


def _check_problem(value: str) -> str:
    if any(not character.isprintable() and character != "\n" for character in value):
        raise ValueError("has characters that cannot be printed")
    return value


def _check_distinct(value: tuple[object, ...]) -> tuple[object, ...]:
    twice = next((item for place, item in enumerate(value) if item in value[:place]), None)
    if twice is not None:
        raise ValueError(f"{shorten(twice)} stands there twice; keep one")
    return value


def _check_folds(value: tuple[date, ...]) -> tuple[date, ...]:
    if not value:
        raise ValueError("is empty; give the first judged day of each fold, or leave it out")
    check_fold_days(value)
    return value


def _check_baseline(value: str) -> str:
    if value != FLAT and not is_submission_id(value):
        raise ValueError(f"{shorten(value)} is neither a submission's id nor {FLAT!r}")
    return value


Moment = Annotated[datetime, Field(strict=True), AfterValidator(_check_aware)]
Day = Annotated[date, Field(strict=True)]
Interval = Annotated[int, Field(strict=True, ge=1, le=MAX_INTERVAL)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
Baseline = Annotated[
    str, StringConstraints(strict=True, max_length=MAX_ID), AfterValidator(_check_baseline)
]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _SparseTable(_Table):
    """Is written without what is not given, as by the versions that did not know of it."""

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, object]:
        written: dict[str, object] = write(self)
        return {
            name: value
            for name, value in written.items()
            if value is not None or name not in _LATER
        }


_LATER: Final = frozenset({"version", "validation_from", "seed_count", "waivers", "folds"})


class Data(_SparseTable):
    """
    What is predicted.

    :param name: The data set.
    :param version: Which version of it; ``None`` for the newest, and for the built-in one.
    """

    name: Line = Field(default=CANNED, title="Data set", description="Name of the data set.")
    version: Version | None = Field(
        default=None,
        title="Version",
        description="Version of the data set. Empty: the newest one, for ever.",
    )


class Rows(_SparseTable):
    """
    Which rows are judged.

    :param validation_from: First day of the validation rows; ``None`` for the data set's.
    :param test_from: First day; ``None`` for the data set's.
    :param test_to: Last day; ``None`` for the last there is.
    :param folds: First day of each forward fold that all train; ``None`` for any, and for none.
    :param closed_from: From this day on nothing is shown of the rows before the event is closed.
    """

    validation_from: Day | None = Field(
        default=None,
        title="Validation from",
        description="First day of the rows that scale positions.",
    )
    test_from: Day | None = Field(
        default=None, title="First day", description="First day that is compared."
    )
    test_to: Day | None = Field(
        default=None, title="Last day", description="Last day that is compared."
    )
    folds: (
        Annotated[tuple[Day, ...], Field(max_length=MOST_FOLDS), AfterValidator(_check_folds)]
        | None
    ) = Field(
        default=None,
        title="Forward folds",
        description="First judged day of each fold that all train, the baseline too; one ends "
        "where the next begins. Empty: none, or as a schedule says.",
    )
    closed_from: Day | None = Field(
        default=None,
        title="Closed from",
        description="While the event is open, it shows no verdict and no score, since the "
        "judged rows reach beyond this day.",
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.test_from and self.test_to and self.test_from > self.test_to:
            raise ValueError("test_to is before test_from; swap them")
        if self.validation_from and self.test_from and self.validation_from >= self.test_from:
            raise ValueError("validation_from is not before test_from; swap them")
        return self

    @model_validator(mode="after")
    def _holds_folds(self) -> Self:
        if self.folds is None:
            return self
        first, last = self.folds[0], self.folds[-1]
        if self.test_from not in {None, first}:
            raise ValueError(
                f"test_from is {self.test_from}, and the first of the folds begins on {first}; "
                "leave test_from out"
            )
        if self.test_to is not None and self.test_to < last:
            raise ValueError(
                f"test_to is {self.test_to}, before the last of the folds begins, {last}; name a "
                "later day, or fewer folds"
            )
        if self.validation_from is not None and self.validation_from >= first:
            raise ValueError(
                f"validation_from is {self.validation_from}, and the first of the folds begins on "
                f"{first}; name an earlier day"
            )
        return self


class Judging(_SparseTable):
    """
    By what submissions are compared.

    :param intervals: Prediction intervals, which all must train; empty for the baseline's.
    :param seeds: The seeds that one may train with; empty for any.
    :param seed_count: How many seeds one must train with; ``None`` for any number.
    :param arrivals: How many submissions are expected: each alone is better below 5 % of that.
    :param bars_per_year: To annualise with; ``None`` for those of the data set's calendar.
    :param baseline: A submission, or ``flat``; ``None`` until an admin sets one.
    """

    intervals: Annotated[
        tuple[Interval, ...], Field(max_length=MAX_INTERVALS), AfterValidator(_check_distinct)
    ] = Field(
        default=(),
        title="Prediction intervals",
        description="Whole bars. Empty: those of the baseline.",
    )
    seeds: Annotated[tuple[Seed, ...], Field(max_length=100), AfterValidator(_check_distinct)] = (
        Field(default=(), title="Seeds", description="Seeds to train with. Empty: any.")
    )
    seed_count: int | None = Field(
        default=None,
        strict=True,
        ge=1,
        le=MAX_SEEDS,
        title="Number of seeds",
        description="How many seeds all train with, whose predictions are averaged; the baseline "
        "too. Empty: any number.",
    )
    arrivals: int = Field(
        default=100,
        strict=True,
        ge=1,
        le=MAX_ARRIVALS,
        title="Expected submissions",
        description="Declared before the first one: a submission is better at once if its own p "
        "is below 5 % divided by this.",
    )
    bars_per_year: float | None = Field(
        default=None,
        gt=0,
        le=1_000_000,
        allow_inf_nan=False,
        title="Bars a year",
        description="To annualise with. Empty: by the data set's calendar.",
    )
    baseline: Baseline | None = Field(
        default=None,
        title="Baseline",
        description="A submission's id, or `flat`. Empty: an admin sets one later.",
    )

    @model_validator(mode="after")
    def _has_enough_seeds(self) -> Self:
        count = self.seed_count
        if count is None or not self.seeds or self.list_first_seeds(count):
            return self
        wanted = ", ".join(str(self.seeds[0] + each) for each in range(count))
        raise ValueError(
            f"seed_count is {count}, and seeds has no {count} in a row; write seeds = [{wanted}]"
        )

    def list_first_seeds(self, count: int) -> tuple[int, ...]:
        """Return the seeds of which so many in a row may be trained with, that one first."""
        known = set(self.seeds)
        return tuple(seed for seed in self.seeds if known.issuperset(range(seed, seed + count)))


class Quota(_Table):
    """
    How often one participant may come.

    :param submissions: So many schedules.
    :param hours: In so many hours.
    """

    submissions: int = Field(
        strict=True, ge=1, le=MAX_QUOTA, title="Submissions", description="So many at most,"
    )
    hours: float = Field(
        default=24.0,
        gt=0,
        le=MAX_HOURS,
        allow_inf_nan=False,
        title="Hours",
        description="in so many hours, for each participant.",
    )


class Event(_SparseTable):
    """
    An event as its file has it.

    :param schema_version: Version of the file's form.
    :param title: What people call it.
    :param problem: What is to be predicted, for people.
    :param data: What is predicted.
    :param rows: Which rows are judged.
    :param judging: By what.
    :param opens_at: When it takes submissions; ``None`` for always.
    :param closes_at: Until when; ``None`` until an admin closes it.
    :param participants: Users who take part; empty for everybody.
    :param quota: How often one may come; ``None`` for as often as one likes.
    :param share: What leaves the machine that holds the data.
    :param waivers: Whether columns may be waived; ``None`` for in the event ``default`` only.
    """

    schema_version: Literal[1] = 1
    title: Annotated[Line, Field(min_length=1)] = Field(
        title="Title", description="What people call it."
    )
    problem: Annotated[
        str,
        StringConstraints(strict=True, max_length=MAX_PROBLEM),
        AfterValidator(_check_problem),
    ] = Field(default="", title="Problem", description="What is to be predicted.")
    data: Data = Data()
    rows: Rows = Rows()
    judging: Judging = Judging()
    opens_at: Moment | None = Field(
        default=None, title="Opens", description="Earlier submissions are refused."
    )
    closes_at: Moment | None = Field(
        default=None, title="Closes", description="Later submissions are refused."
    )
    participants: Annotated[
        tuple[Annotated[Line, Field(min_length=1)], ...],
        Field(max_length=MAX_PARTICIPANTS),
        AfterValidator(_check_distinct),
    ] = Field(default=(), title="Participants", description="Users. Empty: everybody.")
    quota: Quota | None = Field(default=None, title="Quota")
    share: Literal["predictions", "scores"] = Field(
        default="predictions",
        title="Share",
        description="What leaves the server that holds the data: `predictions`, or `scores` alone.",
    )
    waivers: bool | None = Field(
        default=None,
        strict=True,
        title="Waivers",
        description="Whether submissions may waive columns from the checks for look-ahead. Empty: "
        "in the event `default` only.",
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.opens_at and self.closes_at and self.opens_at >= self.closes_at:
            raise ValueError("closes_at is not after opens_at; swap them")
        return self

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if not self.shares_scores_only:
            return self
        if self.data.name == CANNED:
            raise ValueError(
                f"share: the data set {CANNED!r} is in every image; name one under [data] that was "
                "added with `touchstone data add DIR --private`"
            )
        if self.quota is None:
            raise ValueError(
                'quota: with share = "scores" there must be one, since each score tells a little '
                "of the data; add [quota] with submissions and hours"
            )
        if self.judging.baseline is not None:
            raise ValueError(
                "judging.baseline: no rows leave the server that holds the data, so nothing is "
                "compared here; leave it out"
            )
        if self.rows.test_to is not None or self.rows.closed_from is not None:
            raise ValueError(
                "rows: the server that holds the data judges the data set's own rows; leave "
                "test_to and closed_from out"
            )
        if self.rows.folds is not None:
            raise ValueError(f"rows.folds: {NO_FOLDS_THERE}; leave them out")
        return self

    @property
    def shares_scores_only(self) -> bool:
        """Tell whether nothing but figures leaves the server that holds the data."""
        return self.share == "scores"

    @property
    def digest(self) -> str:
        """Return a digest that is the same for the same event."""
        document = self.model_dump(mode="json")
        # As before there were calendars: what follows from the data set changes nothing.
        document["judging"]["bars_per_year"] = self.judging.bars_per_year or float(CANNED_BARS)
        text = json.dumps(document, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


BUILT_IN: Final = Event(
    title="Everybody's submissions", judging=Judging(bars_per_year=float(CANNED_BARS))
)
"""The event ``default`` where nobody has written another: all take part, as often as they like."""
KNOWN_KEYS = frozenset(
    name for model in (Event, Data, Rows, Judging, Quota) for name in model.model_fields
)


def check_event_name(name: str) -> str:
    """
    Return what can be an event's name.

    :raises ConfigurationError: If it cannot: it is a part of addresses and of keys.
    """
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"event: {shorten(name)} cannot be an event's name: up to {MAX_NAME} of a-z, 0-9 and "
            "single dashes between them; its file is <name>.toml"
        )
    return name


def parse_event(text: str, *, name: str) -> Event:
    """
    Check an event's file.

    :param text: TOML.
    :param name: The event's: that of the file without ``.toml``.
    :raises ConfigurationError: Naming the event, the first key that is wrong, and the way out.
    """
    check_event_name(name)
    what = f"event {name}"
    try:
        document = read_toml(text, what=what, version=SCHEMA_VERSION)
        try:
            return Event.model_validate(document)
        except ValidationError as error:
            raise ConfigurationError(explain(error, known=KNOWN_KEYS)) from error
    except ConfigurationError as error:
        message = str(error)
        told = message if message.startswith(what) else f"{what}: {message}"
        raise ConfigurationError(told) from error


def find_known(names: Sequence[str]) -> str:
    """Return the names of events, as a message tells them."""
    return ", ".join(sorted({*names, DEFAULT}))
