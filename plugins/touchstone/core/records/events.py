"""The records of events: each event, what has entered it, and when each participant came."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import BeforeValidator, Field

from touchstone.core.events import DEFAULT, MAX_NAME, Event
from touchstone.core.records.actions import Action
from touchstone.core.records.beside import Beside
from touchstone.core.records.kept import Part, StoredPart
from touchstone.core.records.stored import StoredRecord, Time

CATALOGUE: Final = "#events"
"""Part of the table in which the events themselves are; no event is called so."""
ENTRY: Final = "entry:"
PARTICIPANT: Final = "participant:"

MAX_USES: Final = 1500
"""Newest ones that are kept of a participant: more than any quota looks back."""
MAX_VERDICTS: Final = 50
"""Newest ones that are kept of an entry."""


def _read_definition(stored: object) -> object:
    # A file has days and moments of its own; JSON has texts for them.
    if not isinstance(stored, Mapping):
        return stored
    return Event.model_validate_json(json.dumps(stored))


class Figures(Part):
    """
    What a series without a submission scores.

    :param score: Mean Sharpe ratio beyond the market.
    :param net_sharpe: The same with the market in.
    """

    score: float | int
    net_sharpe: float | int


class EventRecord(StoredRecord):
    """
    An event on record.

    :param event: In which part of the table it is.
    :param entry: Its name.
    :param version: Counts the changes.
    :param definition: What its file says.
    :param digest: Of the file's content; tells whether applying it again changes anything.
    :param baseline: What an admin has set, for a file that names none.
    :param closed_at: When it was closed; ``None`` while it is open.
    :param references: What ``flat`` and ``index`` score on the rows that are judged.
    :param actions: Who did what to it, when; the newest last.
    """

    event: str = CATALOGUE
    entry: str
    version: int = 0
    definition: Annotated[Event, BeforeValidator(_read_definition)]
    digest: str
    baseline: str | None = None
    closed_at: Time | None = None
    references: Mapping[str, Figures] = Field(default_factory=dict)
    actions: tuple[Action, ...] = ()

    @property
    def name(self) -> str:
        """Return its name."""
        return self.entry

    @property
    def chosen_baseline(self) -> str | None:
        """Return what submissions are compared with; ``None`` until somebody says so."""
        return self.definition.judging.baseline or self.baseline


class Edge(Part):
    """
    The figures behind a verdict; what each means is in the judge's own ``Edge``.

    :param difference: Its score less the baseline's.
    :param low: Lower end of the difference's interval.
    :param high: Upper end.
    :param standard_error: Of the difference.
    :param p_own: As if it alone had been compared.
    :param p_adjusted: Counting all.
    :param compared: How many that are.
    :param detectable: The difference that would be seen in 8 of 10 cases.
    """

    difference: float | int
    low: float | int
    high: float | int
    standard_error: float | int
    p_own: float | int
    p_adjusted: float | int
    compared: int
    detectable: float | int


class VerdictRecord(Part):
    """
    One verdict on an entry. It is never changed: a later one stands behind it.

    :param at: When it was reached.
    :param phase: ``arrival`` or ``closing``.
    :param outcome: Exactly one of the five.
    :param sentence: What an engineer can repeat.
    :param reason: Why it is not judged, or of what it is a duplicate.
    :param baseline: What it was compared with.
    :param edge: The figures behind it.
    :param rules_version: Version of the formulas.
    :param work: Digest of what was judged: of the same, the same is said.
    :param seed_count: Of how many seeds its predictions are the mean; ``None`` where nothing was
        compared, and in verdicts from before.
    :param baseline_seed_count: The same of the baseline; ``None`` also for one that holds nothing.
    :param beside: What is shown beside it; ``None`` where nothing was compared, and in verdicts
        from before.
    :param waived_columns: Columns of what it is of against which no look-ahead was held.
    """

    at: Time
    phase: str
    outcome: str
    sentence: str
    reason: str = ""
    baseline: str | None = None
    edge: Edge | None = None
    rules_version: int = 0
    work: str = ""
    seed_count: int | None = None
    baseline_seed_count: int | None = None
    beside: Beside | None = None
    waived_columns: tuple[str, ...] = ()


class Series(Part):
    """
    The judged rows of an entry, which are an object.

    :param part: Where they are.
    :param rows: How many.
    :param rows_digest: Of their times: where it is the same, the rows are.
    :param rules: Digest of the rules they were judged by.
    :param intervals: The prediction intervals, in the order of the columns.
    :param first: The first of the rows.
    :param last: The last one.
    :param seed_count: Of how many seeds the predictions are the mean; ``None`` in what was stored
        before one could name several.
    :param folds: How many of the rows are of each fold, in their order; empty for none.
    """

    part: StoredPart
    rows: int
    rows_digest: str
    rules: str
    intervals: tuple[int, ...]
    first: Time | None = None
    last: Time | None = None
    seed_count: int | None = None
    folds: tuple[int, ...] = ()


class Entry(StoredRecord):
    """
    One try of a submission in an event: a schedule of one run. It never vanishes.

    :param event: The event.
    :param entry: Its key.
    :param version: Counts the changes.
    :param submission_id: The submission.
    :param run_id: The run that brought the schedule.
    :param user: Whose it is.
    :param created_at: When it came.
    :param work: Digest of content and configuration, without the seed; ``None`` before its end.
    :param fault: ``infrastructure`` if nothing of the submission's made it fail: it is free.
    :param series: Its judged rows; ``None`` if there are none.
    :param score: Mean Sharpe ratio beyond the market.
    :param net_sharpe: The same with the market in.
    :param verdicts: What was said of it; the newest last.
    :param waived_columns: Columns of the submission against which no look-ahead is held.
    """

    event: str = DEFAULT
    entry: str
    version: int = 0
    submission_id: str
    run_id: str
    user: str
    created_at: Time
    work: str | None = None
    fault: str | None = None
    series: Series | None = None
    score: float | int | None = None
    net_sharpe: float | int | None = None
    verdicts: tuple[VerdictRecord, ...] = ()
    waived_columns: tuple[str, ...] = ()

    @property
    def verdict(self) -> VerdictRecord | None:
        """Return what holds of it."""
        return self.verdicts[-1] if self.verdicts else None

    @property
    def label(self) -> str:
        """Return its name among the others of its event."""
        return self.entry.removeprefix(ENTRY)

    def add_verdict(self, verdict: VerdictRecord) -> tuple[VerdictRecord, ...]:
        """Return its verdicts with one more; those kept never change."""
        return (*self.verdicts, verdict)[-MAX_VERDICTS:]


class Spoken(Part):
    """
    That something was said of an entry.

    :param outcome: One of the five.
    """

    outcome: str


class EntryPlace(StoredRecord):
    """
    What an entry's place on its board comes from: a thousand are read to show a hundred.

    :param entry: The entry's key.
    :param submission_id: The submission.
    :param created_at: When it came.
    :param score: Mean Sharpe ratio beyond the market; ``None`` if there is none.
    :param verdicts: The first that was said of it; empty while nothing was.
    """

    entry: str
    submission_id: str
    created_at: Time
    score: float | int | None = None
    verdicts: tuple[Spoken, ...] = ()

    @classmethod
    def list_wanted(cls) -> tuple[str, ...]:
        """Return the stored fields that a reader of this model wants."""
        return ("entry", "submission_id", "created_at", "score", "verdicts[0].outcome")


class Use(Part):
    """
    One time that a participant came.

    :param entry: The entry's key.
    :param at: When.
    """

    entry: str
    at: Time


class Participant(StoredRecord):
    """
    When somebody has come to an event.

    :param event: The event.
    :param entry: Its key: who.
    :param version: Counts the changes.
    :param uses: When; the newest last.
    """

    event: str = Field(max_length=MAX_NAME)
    entry: str
    version: int = 0
    uses: tuple[Use, ...] = ()


def build_entry_key(submission_id: str, attempt: str) -> str:
    """Return the key of an entry: of a submission, and which try of it."""
    return f"{ENTRY}{submission_id}:{attempt}"


def build_participant_key(user: str) -> str:
    """Return the key of a participant's record."""
    return f"{PARTICIPANT}{user}"
