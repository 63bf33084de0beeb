"""Ends a submission's runs and attempts, when a user asks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from touchstone.core.answers.acts import Ended
from touchstone.core.records.actions import Action
from touchstone.core.records.audit import SubjectKind
from touchstone.core.records.stored import StoredRecord
from touchstone.core.records.submissions import CancelRequest, Submission
from touchstone.core.states import SUBMISSION_OPEN, IllegalMove, SubmissionStatus
from touchstone.hooks.agent import AgentHook, cancel_tasks
from touchstone.settings import get_settings
from touchstone.stores.records import RecordStore
from touchstone_agent.protocol.errors import TouchstoneError

log = logging.getLogger(__name__)

EndRuns = Callable[[Iterable[str]], list[str]]


def _end_runs(run_ids: Iterable[str]) -> list[str]:
    from touchstone.airflow_db.runs import fail_runs

    return fail_runs(run_ids)


def cancel_submission(
    submission_id: str,
    *,
    by: str,
    reason: str | None = None,
    records: RecordStore | None = None,
    agent: AgentHook | None = None,
    end_runs: EndRuns = _end_runs,
) -> Ended:
    """
    End all tasks and runs of a submission.

    The intent goes on record first; the dispatcher does the rest after a crash.
    Cancelling what has ended is success.

    :param by: Who asked.
    :param reason: Why, one line.
    :param records: The records; ``None`` to connect.
    :param agent: Speaks to agents; ``None`` to connect.
    :param end_runs: Ends DAG runs by id.
    :return: What was ended.
    :raises RecordNotFound: If there is no such submission.
    """
    records = records or RecordStore.connect(get_settings())
    agent = agent or AgentHook()
    why = f"cancelled by {by}" + (f": {reason}" if reason else "")
    now = datetime.now(UTC)

    def intend(found: Submission) -> Submission | None:
        if found.status not in SUBMISSION_OPEN or found.cancel:
            return None
        wanted = CancelRequest(by=by, at=now, reason=why)
        return found.change(cancel=wanted).note_action(at=now, by=by, action=why)

    submission = records.change_submission(submission_id, intend)
    why = (submission.cancel and submission.cancel.reason) or why
    # Runs first: a task that has not started must not start between the two.
    ended_runs = end_runs(submission.run_ids)
    cancelled = cancel_tasks(records, agent, submission_id, by=by, reason=why)
    if submission.status in SUBMISSION_OPEN:
        records.change_submission(submission_id, lambda found: close(found, why))
    return Ended(cancelled_tasks=tuple(cancelled), ended_runs=tuple(ended_runs))


def _find_submitter(run_id: str) -> str | None:
    from touchstone.airflow_db.runs import find_submitter

    return find_submitter(run_id)


def cancel_unregistered(
    submission_id: str,
    *,
    by: str,
    is_admin: bool,
    records: RecordStore | None = None,
    find_submitter: Callable[[str], str | None] = _find_submitter,
    end_runs: EndRuns = _end_runs,
) -> Ended | None:
    """
    End the run of a submission that has not got as far as a record; the audit has it first.

    :param by: Who asked.
    :param is_admin: Whether they may end others' runs.
    :param records: The records; ``None`` to connect.
    :param find_submitter: Tells who triggered a run that has not ended.
    :param end_runs: Ends DAG runs by id.
    :return: As :func:`cancel_submission`; ``None`` if there is no such run, or it is not theirs.
    """
    submitter = find_submitter(submission_id)
    if submitter is None or not (is_admin or submitter == by):
        return None
    records = records or RecordStore.connect(get_settings())
    act = Action(at=datetime.now(UTC), by=by, action=f"cancelled by {by} before it was registered")
    records.add_act(SubjectKind.SUBMISSION, submission_id, act)
    return Ended(ended_runs=tuple(end_runs([submission_id])))


def close(
    found: Submission, reason: str, status: SubmissionStatus = SubmissionStatus.CANCELLED
) -> Submission | None:
    """Return the submission, ended; ``None`` if it has ended otherwise."""
    if found.status not in SUBMISSION_OPEN:
        return None
    return found.change(status=status, reason=reason, ended_at=datetime.now(UTC))


def retract_submission(
    submission_id: str,
    *,
    by: str,
    records: RecordStore | None = None,
    agent: AgentHook | None = None,
    end_runs: EndRuns = _end_runs,
) -> Ended:
    """
    Take a submission back: end what runs, and mark it retracted. Its record and results stay.

    All replays of its trainings end as well, whichever user asked for them.

    :param by: Who asked.
    :return: As :func:`cancel_submission`.
    :raises RecordNotFound: If there is no such submission.
    :raises IllegalMove: If it is in a status that cannot be retracted.
    :raises TouchstoneError: If a replay could not be ended. The submission is retracted then, and
        the other replays have ended.
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

    def decide(found: Submission) -> Submission | None:
        status = found.status
        if status is SubmissionStatus.RETRACTED:
            return None
        if status in SUBMISSION_OPEN:  # pragma: no cover - it was closed just now
            raise IllegalMove(f"submission {submission_id} is {status}; cancel it first")
        return found.move(SubmissionStatus.RETRACTED, retracted_at=now).note_action(
            at=now, by=by, action="retracted"
        )

    records.change_submission(submission_id, decide)
    # After it is on record: a replay that is registered from now on is refused.
    failure: TouchstoneError | None = None
    for replay in _find_replays(records, submission_id):
        try:
            ended = cancel_submission(
                replay,
                by=by,
                reason=f"{submission_id} was retracted",
                records=records,
                agent=agent,
                end_runs=end_runs,
            )
        except TouchstoneError as error:
            log.warning("%s replays %s and goes on: %s", replay, submission_id, error)
            failure = error
            continue
        done = Ended(
            cancelled_tasks=done.cancelled_tasks + ended.cancelled_tasks,
            ended_runs=done.ended_runs + ended.ended_runs,
        )
    if failure is not None:
        # The others have ended. Retracting once more tries this one again.
        raise failure
    return done


class _Replay(StoredRecord):
    """What tells a submission that replays another."""

    submission_id: str
    replay_of: str | None = None


def _find_replays(records: RecordStore, submission_id: str) -> list[str]:
    """Return the submissions under way that run a training of a submission again."""
    found = records.list_open_submissions(_Replay)
    for name, problem in found.unreadable.items():
        log.warning("nobody knows whether %s replays %s: %s", name, submission_id, problem)
    return [
        each.submission_id
        for each in found.records
        if (each.replay_of or "").partition("/")[0] == submission_id
    ]
