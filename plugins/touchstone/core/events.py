"""Events: what is judged together, on which rows, by when, and who takes part. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime, timedelta
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
    CANNED_FIRST,
    CANNED_LAST,
    DataSet,
    Version,
)
from touchstone.core.documents import Line, explain, read_toml, shorten
from touchstone.core.folds import (
    MOST_FOLDS,
    Fold,
    build_folds,
    check_fold_days,
    find_fold_fault,
    tell_days,
)
from touchstone.core.judging_rules import RULES
from touchstone.core.names import is_submission_id
from touchstone.core.schedule import (
    DEFAULT_EVENT,
    EVENT_PATTERN,
    MAX_EVENT,
    MAX_ID,
    MAX_INTERVAL,
    MAX_INTERVALS,
    MAX_SEEDS,
    Schedule,
)
from touchstone.core.waivers import tell_columns
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


_NO_FOLDS_THERE: Final = "the server that holds the data judges the data set's own rows alone"


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
            raise ValueError(f"rows.folds: {_NO_FOLDS_THERE}; leave them out")
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

_KNOWN = frozenset(
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
            raise ConfigurationError(explain(error, known=_KNOWN)) from error
    except ConfigurationError as error:
        message = str(error)
        told = message if message.startswith(what) else f"{what}: {message}"
        raise ConfigurationError(told) from error


def find_objection(
    event: Event,
    name: str,
    *,
    user: str,
    uses: Collection[datetime],
    closed_at: datetime | None,
    now: datetime,
) -> str | None:
    """
    Say why an event does not take a submission now, and from when on it does; ``None`` if it does.

    :param user: Whose submission it is.
    :param uses: When this user has come, as far as it counts.
    :param closed_at: When an admin has closed the event; ``None`` if nobody has.
    :param now: The time, UTC.
    """
    if event.participants and user not in event.participants:
        return f"{user} does not take part in the event {name!r}; an admin may add them"
    if closed_at is not None or (event.closes_at is not None and now >= event.closes_at):
        ended = min(filter(None, (closed_at, event.closes_at)))
        return f"the event {name!r} has been closed since {_tell(ended)}; it opens no more"
    if event.opens_at is not None and now < event.opens_at:
        return f"the event {name!r} opens at {_tell(event.opens_at)}"
    if event.quota is None:
        return None
    window = timedelta(hours=event.quota.hours)
    recent = sorted(at for at in uses if at > now - window)
    if len(recent) < event.quota.submissions:
        return None
    # When so many have left the window that one more fits.
    allowed = recent[len(recent) - event.quota.submissions] + window
    return (
        f"{user} has used the quota of the event {name!r}: {event.quota.submissions} in "
        f"{event.quota.hours:g} hours, cancelled and deleted ones included; the next one may come "
        f"at {_tell(allowed)}"
    )


def find_mismatch(event: Event, name: str, schedule: Schedule) -> str | None:
    """Return which field of a schedule an event does not allow, and why; ``None`` for none."""
    wanted = event.judging.intervals
    if wanted and set(schedule.intervals) != set(wanted):
        told = ",".join(str(each) for each in wanted)
        return f"intervals: the event {name!r} is judged over {told}; give exactly these"
    count = event.judging.seed_count
    if count is not None and schedule.seed_count != count:
        told = "a single seed" if count == 1 else f"{count} seeds"
        return f"seed_count: the event {name!r} is judged with {told}; give exactly {count}"
    seeds = event.judging.seeds
    if seeds and schedule.seed not in event.judging.list_first_seeds(schedule.seed_count):
        told = ", ".join(str(each) for each in seeds)
        last = schedule.seed + schedule.seed_count - 1
        several = f", and not {schedule.seed} to {last}" if schedule.seed_count > 1 else ""
        return f"seed: the event {name!r} takes the seeds {told} only{several}"
    return _find_fold_mismatch(event, name, schedule.folds)


def _find_fold_mismatch(event: Event, name: str, folds: Sequence[date]) -> str | None:
    wanted = event.rows.folds
    if wanted is not None and tuple(folds) != wanted:
        return f"folds: the event {name!r} is judged on the folds {tell_days(wanted)}; give these"
    if not folds:
        return None
    if event.shares_scores_only:
        return f"folds: {_NO_FOLDS_THERE}; leave them out"
    fault = _find_fold_fault(event, folds)
    return f"folds: {fault}" if fault else None


def _find_fold_fault(event: Event, folds: Sequence[date]) -> str | None:
    """
    Say why folds cannot be trained on an event's data; ``None`` if nothing speaks for that.

    :param event: With all that follows from its data set.
    """
    rows = event.rows
    is_canned = event.data.name == CANNED
    if rows.test_to is not None and rows.test_to < folds[-1]:
        return (
            f"the last one begins on {folds[-1]}, and the event's rows end on {rows.test_to}; "
            "leave it out"
        )
    return find_fold_fault(
        build_event_folds(event, folds),
        bars_per_year=event.judging.bars_per_year or CANNED_BARS,
        first_day=CANNED_FIRST if is_canned else None,
        last_day=CANNED_LAST if is_canned else rows.test_to,
        # Of the built-in data validations see all rows.
        open_until=None if is_canned else rows.validation_from,
    )


def build_event_folds(event: Event, days: Sequence[date]) -> tuple[Fold, ...]:
    """Return the folds of a training in an event, by the first judged day of each."""
    rows = event.rows
    if event.data.name == CANNED or rows.validation_from is None or rows.test_from is None:
        # The event's own days of built-in data only choose among what is judged.
        rules = RULES
        return build_folds(
            days,
            validation_from=rules.validation_from,
            test_from=rules.test_from,
            test_to=rules.test_to,
        )
    return build_folds(
        days,
        validation_from=rows.validation_from,
        test_from=rows.test_from,
        test_to=rows.test_to,
    )


def find_other_folds(event: Event, folds: Sequence[date]) -> str | None:
    """Return why something trained in such folds is not judged; ``None`` if it is."""
    wanted = event.rows.folds
    if wanted is None or tuple(folds) == wanted:
        return None
    return (
        f"other rows: it was trained on the folds {tell_days(folds)}, and the event is judged on "
        f"{tell_days(wanted)}"
    )


def takes_waivers(event: Event, name: str) -> bool:
    """Tell whether an event takes submissions with waived columns."""
    return name == DEFAULT if event.waivers is None else event.waivers


def find_refused_waivers(event: Event, name: str, waived: Sequence[str]) -> str | None:
    """
    Return why an event does not take a submission for its waived columns; ``None`` if it does.

    :param waived: The columns.
    """
    if not waived or takes_waivers(event, name):
        return None
    return (
        f"waived_columns: the event {name!r} takes no submission with waived columns, and "
        f"{tell_columns(waived)} {'is' if len(waived) == 1 else 'are'}; submit it without them"
    )


def find_other_seeds(event: Event, seed_count: int) -> str | None:
    """Return why something trained with so many seeds is not judged; ``None`` if it is."""
    wanted = event.judging.seed_count
    if wanted is None or seed_count == wanted:
        return None
    return f"other seeds: it was trained with {seed_count}, and the event is judged with {wanted}"


def is_judged_row(event: Event, time: str) -> bool:
    """
    Tell whether a row is one of an event's.

    :param time: When, ISO 8601 in UTC.
    """
    rows, day = event.rows, time[:10]
    return (rows.test_from is None or rows.test_from.isoformat() <= day) and (
        rows.test_to is None or day <= rows.test_to.isoformat()
    )


def settle_event(
    event: Event, name: str, data: DataSet | None, *, is_private: bool = False
) -> Event:
    """
    Return an event with all that follows from its data set: version, rows, bars a year.

    :param event: As its file has it.
    :param data: The data set; ``None`` for the built-in one.
    :param is_private: Whether the data set is at the servers that hold it alone.
    :raises ConfigurationError: Naming the key that does not go with the data set.
    """
    what, rows = f"event {name}", event.rows
    _check_share(what, event, data, is_private=is_private)
    if data is None:
        for key, value in (
            ("data.version", event.data.version),
            ("rows.validation_from", rows.validation_from),
        ):
            if value is not None:
                raise ConfigurationError(
                    f"{what}: {key}: the data set {CANNED!r} is built in and has but one; "
                    "leave it out"
                )
    bars = CANNED_BARS if data is None else data.bars_per_year
    asked = event.judging.bars_per_year
    if asked is not None and asked != bars:
        raise ConfigurationError(
            f"{what}: judging.bars_per_year: {asked:g} does not go with {event.data.name!r}, whose "
            f"calendar has {bars}; leave it out"
        )
    judging = event.judging.model_copy(update={"bars_per_year": float(bars)})
    settled = event.model_copy(update={"judging": judging})
    if data is None:
        return _check_settled_folds(what, settled)
    first = data.rows.validation_from
    if rows.validation_from is not None and rows.validation_from < first:
        # A validation shows its submitter the rows before the data set's own first day.
        raise ConfigurationError(
            f"{what}: rows.validation_from: {rows.validation_from} is before {first}, up to which "
            f"validations may see {data.label}; name that day or a later one, or add a version of "
            "the data set with an earlier one"
        )
    found = {
        "validation_from": rows.validation_from or first,
        "test_from": rows.test_from or (rows.folds[0] if rows.folds else data.rows.test_from),
        "test_to": rows.test_to,
        "folds": rows.folds,
        "closed_from": rows.closed_from,
    }
    try:
        settled_rows = Rows.model_validate(found)
    except ValidationError as error:
        raise ConfigurationError(
            f"{what}: rows: {explain(error, known=_KNOWN)}; {data.label} has validation_from "
            f"{first} and test_from {data.rows.test_from}"
        ) from error
    pinned = event.data.model_copy(update={"version": data.version})
    return _check_settled_folds(
        what, settled.model_copy(update={"data": pinned, "rows": settled_rows})
    )


def _check_settled_folds(what: str, event: Event) -> Event:
    """Return an event whose folds its data set can hold."""
    fault = _find_fold_fault(event, event.rows.folds) if event.rows.folds else None
    if fault is not None:
        raise ConfigurationError(f"{what}: rows.folds: {fault}")
    return event


def _check_share(what: str, event: Event, data: DataSet | None, *, is_private: bool) -> None:
    """Refuse an event that would share more of its data than those allow, or cannot share less."""
    if is_private and not event.shares_scores_only:
        raise ConfigurationError(
            f"{what}: share: {event.data.name!r} is private, so no prediction leaves the servers "
            'that hold it; write share = "scores"'
        )
    if not event.shares_scores_only:
        return
    if not is_private:
        raise ConfigurationError(
            f"{what}: share: {event.data.name!r} is not private: servers fetch it, and everybody "
            'has it by now; write share = "predictions", or name a data set that was added with '
            "`touchstone data add DIR --private`"
        )
    for key in ("validation_from", "test_from"):
        asked = getattr(event.rows, key)
        if data is not None and asked is not None and asked != getattr(data.rows, key):
            raise ConfigurationError(
                f"{what}: rows.{key}: the servers that hold {data.label} judge its own rows alone, "
                f"from {getattr(data.rows, key)}; leave it out"
            )


_FIXED = ("intervals", "seed_count", "arrivals", "bars_per_year")


def find_fixed_change(before: Event, after: Event) -> str | None:
    """Return what may not change once rows were judged, and does; ``None`` for nothing."""
    # Without a version it is the built-in one, whatever people have called it.
    if (before.data.version or after.data.version) and before.data != after.data:
        return "data"
    if before.rows != after.rows:
        return "rows"
    changed = (
        name for name in _FIXED if getattr(before.judging, name) != getattr(after.judging, name)
    )
    name = next(changed, None)
    return f"judging.{name}" if name else None


def is_hidden(event: Event, *, closed_at: datetime | None) -> bool:
    """Tell whether nothing may be told yet of what is judged."""
    return event.rows.closed_from is not None and closed_at is None


def build_try(run_id: str, schedule: Schedule) -> str:
    """Return what tells one try of a submission from another: its run, and how it trains."""
    text = json.dumps([run_id, schedule.model_dump(mode="json")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


_WORK = ("config_file", "fetched_data_end_to", "config_overrides", "passthrough_args")


def build_work_digest(
    *, system: str | None, content_sha256: str | None, checkout: str | None, schedule: Schedule
) -> str:
    """
    Return a digest that is the same for the same idea: content and configuration, not the seeds.

    :param checkout: Digest of the trainer's own branch; ``None`` for the image's trainer.
    """
    asked = schedule.model_dump(mode="json", include=set(_WORK))
    work = [system, content_sha256, checkout, sorted(schedule.intervals), asked]
    return hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()


def build_seed(name: str, baseline: str) -> int:
    """Return the seed of all drawing in an event: the same question gives the same answer."""
    return int(hashlib.sha256(f"{name} {baseline}".encode()).hexdigest()[:8], 16)


def find_known(names: Sequence[str]) -> str:
    """Return the names of events, as a message tells them."""
    return ", ".join(sorted({*names, DEFAULT}))


def _tell(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
