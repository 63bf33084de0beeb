"""Submissions: list, show, results, cancel, retract."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from touchstone.core.answers.acts import Ended
from touchstone.core.forward import tell_none
from touchstone.core.paging import Place
from touchstone.core.queue import Queue
from touchstone.core.records.submissions import Submission
from touchstone.core.records.tasks import Task, TaskEntry
from touchstone.core.states import SubmissionStatus
from touchstone.ui.dependencies import (
    CallerDep,
    CancelServiceDep,
    ClockDep,
    PartsDep,
    QueueDep,
    RecordsDep,
    require_json,
    require_submitter,
)
from touchstone.ui.queries import (
    get_entry,
    get_visible_submission,
    list_visible_submissions,
    show_cost,
    show_figures,
    show_results,
    show_submission,
    show_summary,
    show_task,
)
from touchstone.ui.waiting import describe_dispatcher, group_waiting, show_first, show_waiting

router = APIRouter(prefix="/submissions")


class CancelBody(BaseModel):
    """
    Body of a cancel.

    :param reason: Why, in one line; shown with the submission.
    """

    model_config = ConfigDict(extra="forbid")

    reason: str | None = Field(default=None, max_length=500)


class RetractBody(BaseModel):
    """Body of a retract: an empty object."""

    model_config = ConfigDict(extra="forbid")


@router.get("")
def list_submissions(
    caller: CallerDep,
    records: RecordsDep,
    queue: QueueDep,
    clock: ClockDep,
    status: SubmissionStatus | None = None,
    user: Annotated[str | None, Query(min_length=1, max_length=250)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(max_length=512)] = None,
) -> dict[str, JsonValue]:
    """Return the newest submissions that the caller may see; ``next`` is the next page's cursor."""
    found, following = list_visible_submissions(
        records,
        caller,
        status=status,
        user=user,
        limit=limit,
        before=Place.from_cursor(cursor) if cursor else None,
    )
    waiting = group_waiting(queue)
    return {
        "submissions": [
            each.dump() | {"waiting": show_first(waiting.get(each.submission_id, ()))}
            for each in found
        ],
        "next": following.to_cursor() if following else None,
        "dispatcher": describe_dispatcher(queue, clock()).model_dump(mode="json"),
    }


@router.get("/{submission_id}")
def get_submission(
    caller: CallerDep, records: RecordsDep, queue: QueueDep, clock: ClockDep, submission_id: str
) -> dict[str, JsonValue]:
    """Return a submission with its tasks, and where those that wait stand in the queue."""
    submission = get_visible_submission(records, caller, submission_id)
    return show_with_tasks(submission, records.list_tasks(submission_id), queue, clock())


def show_with_tasks(
    submission: Submission, tasks: Sequence[TaskEntry[Task]], queue: Queue | None, now: datetime
) -> dict[str, JsonValue]:
    """Return a submission that the caller may see with its tasks, as they were read."""
    readable = [entry.task for entry in tasks if entry.task is not None]
    return {
        "submission": show_submission(submission)
        | {
            "queue_position": _find_position(submission.submission_id, queue),
            "cost": show_cost(readable, now),
            "forward_note": tell_none(submission),
        },
        "tasks": [
            show_summary(entry, now) | {"waiting": show_waiting(queue, *entry.key)}
            for entry in tasks
        ],
        "dispatcher": describe_dispatcher(queue, now).model_dump(mode="json"),
    }


def _find_position(submission_id: str, queue: Queue | None) -> int | None:
    waiting = group_waiting(queue).get(submission_id, ())
    return min((task.position for task in waiting), default=None)


@router.get("/{submission_id}/results")
def get_results(
    caller: CallerDep, records: RecordsDep, parts: PartsDep, submission_id: str
) -> dict[str, JsonValue]:
    """Return what a submission came to."""
    return show_results(get_visible_submission(records, caller, submission_id), parts)


@router.get("/{submission_id}/tasks/{task_id}")
def get_task(
    caller: CallerDep,
    records: RecordsDep,
    parts: PartsDep,
    clock: ClockDep,
    submission_id: str,
    task_id: str,
) -> dict[str, JsonValue]:
    """Return a task with its earlier attempts, and all that it has published."""
    get_visible_submission(records, caller, submission_id)
    return show_task(get_entry(records, submission_id, task_id), parts, clock())


@router.get("/{submission_id}/tasks/{task_id}/charts")
def get_charts(
    caller: CallerDep, records: RecordsDep, parts: PartsDep, submission_id: str, task_id: str
) -> dict[str, JsonValue]:
    """Return what the judge's charts of a training show, as figures."""
    get_visible_submission(records, caller, submission_id)
    return show_figures(get_entry(records, submission_id, task_id), parts)


@router.post(
    "/{submission_id}/cancel", dependencies=[Depends(require_submitter), Depends(require_json)]
)
def cancel_submission(
    caller: CallerDep,
    records: RecordsDep,
    cancel_service: CancelServiceDep,
    submission_id: str,
    body: CancelBody,
) -> Ended:
    """End a submission's tasks and runs; what has ended already stays as it is."""
    if records.find_submission(submission_id) is None:
        # Its run may wait to begin, for long when there are many.
        ended = cancel_service.cancel_unregistered(
            submission_id, by=caller.name, is_admin=caller.is_admin
        )
        if ended is not None:
            return ended
    get_visible_submission(records, caller, submission_id)
    return cancel_service.cancel(submission_id, by=caller.name, reason=body.reason)


@router.post(
    "/{submission_id}/retract", dependencies=[Depends(require_submitter), Depends(require_json)]
)
def retract_submission(
    caller: CallerDep,
    records: RecordsDep,
    cancel_service: CancelServiceDep,
    submission_id: str,
    body: RetractBody,  # noqa: ARG001 (checked to be empty)
) -> Ended:
    """Withdraw a submission for good, ending what is under way."""
    get_visible_submission(records, caller, submission_id)
    return cancel_service.retract(submission_id, by=caller.name)
