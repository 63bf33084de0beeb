"""All tasks that a user may see, by status, server, submission and user."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query

from touchstone.core.answers.tasks import ListedTask, TaskList
from touchstone.core.paging import Place, TaskListPlace
from touchstone.core.records.submissions import OpenSubmission
from touchstone.core.records.tasks import TaskRow
from touchstone.core.schedule import MAX_ID
from touchstone.core.states import TaskStatus
from touchstone.stores.records import RecordStore
from touchstone.ui.dependencies import CallerDep, ClockDep, RecordsDep
from touchstone.ui.queries import get_visible_submission

router = APIRouter()

MAX_NAME: Final = 250
MAX_AT_WORK: Final = 500
"""Of a server, whose tasks at work are few."""
SUBMISSIONS_A_PAGE: Final = 20
"""A page of one user's tasks has those of so many submissions."""


@router.get("/tasks")
def list_tasks(
    caller: CallerDep,
    records: RecordsDep,
    clock: ClockDep,
    status: TaskStatus | None = None,
    server: Annotated[str | None, Query(min_length=1, max_length=MAX_NAME)] = None,
    submission: Annotated[str | None, Query(min_length=1, max_length=MAX_ID)] = None,
    user: Annotated[str | None, Query(min_length=1, max_length=MAX_NAME)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=512)] = None,
) -> TaskList:
    """
    Return tasks that the caller may see, newest first; ``next`` is the next page's cursor.

    Of a submission all; of a user, by submission, page by page; of a server, for admins, those at
    work. Otherwise all, for admins, and the caller's own for others.
    """
    owner = user if caller.is_admin else caller.name
    if user not in {None, owner}:
        return TaskList(tasks=())
    following: Place | TaskListPlace | None = None
    if submission is not None:
        rows = _find_of(records, get_visible_submission(records, caller, submission).submission_id)
    elif owner is not None:
        before = Place.from_cursor(cursor) if cursor else None
        page = records.list_submissions(
            limit=SUBMISSIONS_A_PAGE, owner=owner, before=before, model=OpenSubmission
        )
        rows = [row for each in page.records for row in _find_of(records, each.submission_id)]
        following = page.next
    elif server is not None:
        places = records.find_servers_at_work()
        keys = sorted(key for key, place in places.items() if place == server)
        rows = list(records.find_rows(keys[:MAX_AT_WORK]).records)
    else:
        place = TaskListPlace.from_cursor(cursor) if cursor else None
        found, following = records.list_newest_rows(
            limit=limit, status=status, before=place, now=clock()
        )
        rows = list(found.records)
    return TaskList(
        tasks=tuple(
            _show(row)
            for row in rows
            if status in {None, row.status}
            and server in {None, row.server}
            # A user's own are told by the records of submissions; this is an admin's filter.
            and (submission is None or user in {None, row.spec.submitted_by})
        ),
        next=following.to_cursor() if following else None,
    )


def _find_of(records: RecordStore, submission_id: str) -> list[TaskRow]:
    rows = records.list_rows(submission_id).records
    return sorted(rows, key=lambda row: (row.created_at, row.interval or 0), reverse=True)


def _show(row: TaskRow) -> ListedTask:
    return ListedTask(
        submission_id=row.submission_id,
        task_id=row.task_id,
        submitted_by=row.spec.submitted_by,
        interval=row.interval,
        status=row.status.value,
        server=row.server,
        percent=float(row.percent),
        reason=row.reason,
        created_at=row.created_at,
        running_at=row.running_at,
        ended_at=row.ended_at,
    )
