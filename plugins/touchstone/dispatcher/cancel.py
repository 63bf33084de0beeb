"""Ends what a submission has at work, when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from touchstone.core.actions import note_action
from touchstone.core.states import (
    SUBMISSION_OPEN,
    IllegalMove,
    SubmissionStatus,
    check_submission_move,
)
from touchstone.hooks.agent import AgentHook, cancel_tasks
from touchstone.hooks.records import Record, RecordStore
from touchstone.settings import get_settings

EndRuns = Callable[[Iterable[str]], list[str]]


def _end_runs(run_ids: Iterable[str]) -> list[str]:
    from touchstone.dispatcher.metadata.runs import fail_runs

    return fail_runs(run_ids)


def cancel_submission(
    submission_id: str,
    *,
    by: str,
    reason: str | None = None,
    records: RecordStore | None = None,
    agent: AgentHook | None = None,
    end_runs: EndRuns = _end_runs,
) -> dict[str, Any]:
    """
    End all tasks and runs of a submission.

    The intent goes on record first; the dispatcher repeats whatever is left undone by a crash.
    Cancelling what has ended is success.

    :param by: Who asked.
    :param reason: Why, one line.
    :param records: The records; ``None`` to connect.
    :param agent: Speaks to agents; ``None`` to connect.
    :param end_runs: Ends DAG runs by id.
    :return: ``cancelled_tasks`` and ``ended_runs``.
    :raises RecordNotFound: If there is no such submission.
    """
    records = records or RecordStore.connect(get_settings())
    agent = agent or AgentHook()
    why = f"cancelled by {by}" + (f": {reason}" if reason else "")
    now = datetime.now(UTC)

    def intend(found: Record) -> Record | None:
        if found["status"] not in SUBMISSION_OPEN or found.get("cancel"):
            return None
        return {
            "cancel": {"by": by, "at": now.isoformat(), "reason": why},
            **note_action(found, at=now, by=by, action=why),
        }

    submission = records.change_submission(submission_id, intend)
    why = (submission.get("cancel") or {}).get("reason") or why
    # Runs first: a task that has not started must not start between the two.
    ended_runs = end_runs(submission.get("run_ids", []))
    cancelled = cancel_tasks(records, agent, submission_id, by=by, reason=why)
    if submission["status"] in SUBMISSION_OPEN:
        records.change_submission(submission_id, lambda found: close_cancelled(found, why))
    return {"cancelled_tasks": cancelled, "ended_runs": ended_runs}


def _find_submitter(run_id: str) -> str | None:
    from touchstone.dispatcher.metadata.runs import find_submitter

    return find_submitter(run_id)


def cancel_unregistered(
    submission_id: str,
    *,
    by: str,
    is_admin: bool,
    find_submitter: Callable[[str], str | None] = _find_submitter,
    end_runs: EndRuns = _end_runs,
) -> dict[str, Any] | None:
    """
    End the run of a submission that has not got as far as a record.

    :param by: Who asked.
    :param is_admin: Whether they may end others' runs.
    :param find_submitter: Tells who triggered a run that has not ended.
    :param end_runs: Ends DAG runs by id.
    :return: As :func:`cancel_submission`; ``None`` if there is no such run, or it is not theirs.
    """
    submitter = find_submitter(submission_id)
    if submitter is None or not (is_admin or submitter == by):
        return None
    return {"cancelled_tasks": [], "ended_runs": end_runs([submission_id])}


def close_cancelled(found: Record, reason: str) -> Record | None:
    """Return the fields that make a submission cancelled; ``None`` if it has ended otherwise."""
    if found["status"] not in SUBMISSION_OPEN:
        return None
    return {
        "status": SubmissionStatus.CANCELLED.value,
        "reason": reason,
        "ended_at": datetime.now(UTC).isoformat(),
    }


def retract_submission(
    submission_id: str,
    *,
    by: str,
    records: RecordStore | None = None,
    agent: AgentHook | None = None,
    end_runs: EndRuns = _end_runs,
) -> dict[str, Any]:
    """
    Take a submission back: end what runs, and mark it retracted. Its record and results stay.

    :param by: Who asked.
    :return: As :func:`cancel_submission`.
    :raises RecordNotFound: If there is no such submission.
    :raises IllegalMove: If it is in a status that cannot be retracted.
    """
    records = records or RecordStore.connect(get_settings())
    done = cancel_submission(
        submission_id,
        by=by,
        reason="retracted",
        records=records,
        agent=agent,
        end_runs=end_runs,
    )
    now = datetime.now(UTC)

    def decide(found: Record) -> Record | None:
        status = SubmissionStatus(found["status"])
        if status is SubmissionStatus.RETRACTED:
            return None
        if status in SUBMISSION_OPEN:  # pragma: no cover - it was closed just now
            raise IllegalMove(f"submission {submission_id} is {status}; cancel it first")
        check_submission_move(submission_id, status, SubmissionStatus.RETRACTED)
        return {
            "status": SubmissionStatus.RETRACTED.value,
            "retracted_at": now.isoformat(),
            **note_action(found, at=now, by=by, action="retracted"),
        }

    records.change_submission(submission_id, decide)
    return done
