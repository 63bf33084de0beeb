"""Some submissions beside each other: figures by interval, verdicts, baselines, charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response

from touchstone.core.answers.comparison import (
    ComparedSubmission,
    ComparedSubmissions,
    ComparedVerdict,
)
from touchstone.core.comparing import LEAST, MOST, build_intervals, join, write_csv
from touchstone.core.names import is_submission_id
from touchstone.core.records.events import Entry
from touchstone.core.records.stored import RecordUnreadable
from touchstone.core.records.submissions import Submission
from touchstone.core.schedule import DEFAULT_EVENT, MAX_ID
from touchstone.core.verdicts import build_row
from touchstone.services.events import EventKeeper
from touchstone.stores.parts import Parts
from touchstone.stores.records import RecordStore
from touchstone.ui.dependencies import Caller, CallerDep, PartsDep, RecordsDep
from touchstone.ui.queries import may_see, show_results
from touchstone.ui.routes.events import KeeperDep
from touchstone_agent.protocol.errors import ConfigurationError

router = APIRouter()

ANOTHER_USERS = "another user's: only its verdict is shown"
UNREADABLE = "its record makes no sense; an admin can mend it"
CSV = "text/csv; charset=utf-8"

Asked = Annotated[
    list[Annotated[str, Query(max_length=MAX_ID)]], Query(min_length=LEAST, max_length=MOST)
]


@dataclass(frozen=True, kw_only=True)
class Comparer:
    """
    Brings submissions together, as far as a caller may see them.

    :param caller: Who asks.
    :param records: The submissions.
    :param parts: Their results.
    :param keeper: Their events.
    """

    caller: Caller
    records: RecordStore
    parts: Parts
    keeper: EventKeeper

    def compare(self, asked: Sequence[str]) -> ComparedSubmissions:
        """
        Return submissions beside each other, and what their events compare with.

        :raises ConfigurationError: If an id cannot be one, or too few are different.
        """
        wanted = list(dict.fromkeys(asked))
        if any(not is_submission_id(each) for each in wanted):
            raise ConfigurationError("submission: is no submission's id")
        if len(wanted) < LEAST:
            raise ConfigurationError(f"submission: name {LEAST} to {MOST} different ones")
        found = [self._find(each) for each in wanted]
        missing = [name for name, each in zip(wanted, found, strict=True) if each is None]
        shown = [each for each in found if each is not None]
        baselines = {row.baseline for each in shown for row in each.verdicts if row.baseline}
        beside = [self._find(each) for each in sorted(baselines - set(wanted))]
        return join(
            (
                each.model_copy(update={"is_baseline": each.submission_id in baselines})
                for each in [*shown, *(each for each in beside if each is not None)]
            ),
            missing,
        )

    def _find(self, submission_id: str) -> ComparedSubmission | None:
        """Return what the caller may know of a submission; ``None`` for nothing at all."""
        try:
            submission = self.records.find_submission(submission_id)
        except RecordUnreadable:
            return self._describe(submission_id, None, UNREADABLE)
        if submission is None or not may_see(self.caller, submission):
            return self._describe(submission_id, submission, ANOTHER_USERS)
        shown = show_results(submission, self.parts)
        return ComparedSubmission(
            submission_id=submission_id,
            submitted_by=submission.submitted_by,
            status=submission.status,
            score=submission.score,
            score_low=submission.score_low,
            score_high=submission.score_high,
            waived_columns=submission.waived_columns,
            verdicts=self._list_verdicts(self._list_entries(submission_id, submission)),
            intervals=build_intervals(shown["results"], shown["chart_links"]),
        )

    def _describe(
        self, submission_id: str, submission: Submission | None, note: str
    ) -> ComparedSubmission | None:
        """Return what everybody may know of a submission: what its event's board says of it."""
        entries = self._list_entries(submission_id, submission)
        if not entries:
            # Others do not learn whether there is a submission that never entered.
            return None
        return ComparedSubmission(
            submission_id=submission_id,
            submitted_by=entries[-1].user,
            note=note,
            waived_columns=entries[-1].waived_columns,
            verdicts=self._list_verdicts(entries),
        )

    def _list_entries(self, submission_id: str, submission: Submission | None) -> Sequence[Entry]:
        schedule = submission.schedule if submission else None
        event = schedule.event if schedule else DEFAULT_EVENT
        return self.keeper.store.list_entries(event, submission_id=submission_id).records

    def _list_verdicts(self, entries: Sequence[Entry]) -> tuple[ComparedVerdict, ...]:
        baselines = {
            name: self.keeper.store.get_event(name).chosen_baseline
            for name in {entry.event for entry in entries}
        }
        return tuple(_show_verdict(entry, baselines[entry.event]) for entry in entries)


def _show_verdict(entry: Entry, baseline: str | None) -> ComparedVerdict:
    row = build_row(entry)
    return ComparedVerdict(
        event=entry.event,
        baseline=baseline,
        verdict=row.verdict,
        why=row.sentence or row.reason,
        score=row.score,
        difference=row.difference,
        low=row.low,
        high=row.high,
        p=row.p,
        n=row.n,
    )


async def get_comparer(
    caller: CallerDep, records: RecordsDep, parts: PartsDep, keeper: KeeperDep
) -> Comparer:
    """Return what compares for this caller."""
    return Comparer(caller=caller, records=records, parts=parts, keeper=keeper)


ComparerDep = Annotated[Comparer, Depends(get_comparer)]


@router.get("/comparison")
def compare(comparer: ComparerDep, submission: Asked) -> ComparedSubmissions:
    """Return some submissions beside each other, by prediction interval."""
    return comparer.compare(submission)


@router.get("/comparison.csv")
def compare_as_csv(comparer: ComparerDep, submission: Asked) -> Response:
    """Return the same as CSV, a row for each submission and interval."""
    return Response(
        write_csv(comparer.compare(submission)),
        media_type=CSV,
        headers={"Content-Disposition": 'attachment; filename="comparison.csv"'},
    )
