"""When a submission runs: as soon as one of its trainings does."""

from __future__ import annotations

import contextlib

from touchstone.core.states import (
    SUBMISSION_OPEN,
    IllegalMove,
    SubmissionStatus,
    check_submission_move,
)
from touchstone.hooks.records import Record, RecordNotFound, RecordStore


def mark_running(records: RecordStore, submission_id: str) -> None:
    """Write down that a submission runs, unless it cannot, does already, or is not there."""

    def decide(found: Record) -> Record | None:
        # Also from an end: a cleared task trains again.
        if found["status"] == SubmissionStatus.RUNNING or not found.get("accepted_at"):
            return None
        check_submission_move(
            submission_id, SubmissionStatus(found["status"]), SubmissionStatus.RUNNING
        )
        changes: Record = {"status": SubmissionStatus.RUNNING.value}
        if found["status"] not in SUBMISSION_OPEN:
            # It was cancelled once; that wish was fulfilled and says nothing of this attempt.
            changes |= {"cancel": None, "ended_at": None, "reason": None}
        return changes

    with contextlib.suppress(IllegalMove, RecordNotFound):
        records.change_submission(submission_id, decide)
