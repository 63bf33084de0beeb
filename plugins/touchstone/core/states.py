"""Statuses of submissions and tasks, and the moves between them that are legal."""

from __future__ import annotations

from enum import StrEnum

from touchstone_agent.protocol.errors import PermanentError


class SubmissionStatus(StrEnum):
    """Where a submission is."""

    SUBMITTED = "submitted"
    VALIDATING = "validating"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCESS = "success"
    ERROR = "error"
    CANCELLED = "cancelled"
    RETRACTED = "retracted"


class TaskStatus(StrEnum):
    """Where a task is; the status of its newest attempt."""

    QUEUED = "queued"
    PREPARING = "preparing"
    RUNNING = "running"
    UPLOADING = "uploading"
    SUCCESS = "success"
    ERROR = "error"
    CANCELLED = "cancelled"
    LOST = "lost"


_S = SubmissionStatus
_T = TaskStatus

SUBMISSION_OPEN = frozenset({_S.SUBMITTED, _S.VALIDATING, _S.QUEUED, _S.RUNNING})
"""Statuses in which some DAG run is at work on the submission."""

SCHEDULABLE = frozenset({_S.ACCEPTED, _S.SUCCESS, _S.ERROR, _S.CANCELLED})
"""Statuses from which a schedule may be given, if the submission was accepted once."""

TASK_TERMINAL = frozenset({_T.SUCCESS, _T.ERROR, _T.CANCELLED, _T.LOST})

SUBMISSION_MOVES: dict[SubmissionStatus, frozenset[SubmissionStatus]] = {
    _S.SUBMITTED: frozenset({_S.VALIDATING, _S.REJECTED, _S.ERROR, _S.CANCELLED}),
    # With a schedule of its own a run goes on at once: "accepted" would invite another run.
    _S.VALIDATING: frozenset({_S.ACCEPTED, _S.QUEUED, _S.REJECTED, _S.ERROR, _S.CANCELLED}),
    _S.ACCEPTED: frozenset({_S.QUEUED, _S.RETRACTED, _S.CANCELLED, _S.ERROR}),
    # Clearing the tasks of a run that has ended starts it again.
    _S.REJECTED: frozenset({_S.VALIDATING, _S.RETRACTED}),
    _S.QUEUED: frozenset({_S.RUNNING, _S.SUCCESS, _S.ERROR, _S.CANCELLED}),
    _S.RUNNING: frozenset({_S.QUEUED, _S.SUCCESS, _S.ERROR, _S.CANCELLED}),
    _S.SUCCESS: frozenset({_S.QUEUED, _S.RUNNING, _S.SUCCESS, _S.ERROR, _S.RETRACTED}),
    _S.ERROR: frozenset(
        {_S.VALIDATING, _S.QUEUED, _S.RUNNING, _S.SUCCESS, _S.CANCELLED, _S.RETRACTED}
    ),
    _S.CANCELLED: frozenset(
        {_S.VALIDATING, _S.QUEUED, _S.RUNNING, _S.SUCCESS, _S.ERROR, _S.RETRACTED}
    ),
    _S.RETRACTED: frozenset(),
}

TASK_MOVES: dict[TaskStatus, frozenset[TaskStatus]] = {
    _T.QUEUED: frozenset({_T.PREPARING, _T.RUNNING, _T.UPLOADING}) | TASK_TERMINAL,
    _T.PREPARING: frozenset({_T.RUNNING, _T.UPLOADING}) | TASK_TERMINAL,
    _T.RUNNING: frozenset({_T.UPLOADING}) | TASK_TERMINAL,
    _T.UPLOADING: TASK_TERMINAL,
    # Every end leads back to the queue: by a retry, or by somebody clearing the task.
    _T.SUCCESS: frozenset({_T.QUEUED}),
    _T.ERROR: frozenset({_T.QUEUED}),
    _T.CANCELLED: frozenset({_T.QUEUED}),
    _T.LOST: frozenset({_T.QUEUED}),
}


class IllegalMove(PermanentError):
    """A record is in a status from which the wanted one cannot be reached; nothing was changed."""


def check_submission_move(submission_id: str, old: SubmissionStatus, new: SubmissionStatus) -> None:
    """
    Refuse a move that the table does not list; staying is always legal.

    :raises IllegalMove: Naming the submission and both statuses.
    """
    if new != old and new not in SUBMISSION_MOVES[old]:
        raise IllegalMove(f"submission {submission_id} is {old} and cannot become {new}")


def is_task_move(old: TaskStatus, new: TaskStatus) -> bool:
    """Tell whether a task may go from ``old`` to ``new``; staying is always legal."""
    return new == old or new in TASK_MOVES[old]
