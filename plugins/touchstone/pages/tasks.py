"""The page of tasks: of all submissions that the caller may see, by filters."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from touchstone.core.schedule import MAX_ID
from touchstone.core.states import TaskStatus
from touchstone.pages.rendering import Frame, render
from touchstone.ui.dependencies import CallerDep, ClockDep, RecordsDep
from touchstone.ui.routes import tasks as api

router = APIRouter()

PAGE_SIZE = 50


@router.get("/tasks")
def list_tasks(
    request: Request,
    caller: CallerDep,
    records: RecordsDep,
    clock: ClockDep,
    status: Annotated[str, Query(max_length=20)] = "",
    server: Annotated[str, Query(max_length=api.MAX_NAME)] = "",
    submission: Annotated[str, Query(max_length=MAX_ID)] = "",
    user: Annotated[str, Query(max_length=api.MAX_NAME)] = "",
    cursor: Annotated[str | None, Query(max_length=512)] = None,
) -> HTMLResponse:
    """Show tasks, the newest first, page by page."""
    # A form sends its empty fields, too; a status that is none filters nothing.
    known = status in set(TaskStatus)
    filters = {
        "status": status if known else "",
        "server": server.strip(),
        "submission": submission.strip(),
        "user": user.strip(),
    }
    found = api.list_tasks(
        caller,
        records,
        clock,
        status=TaskStatus(status) if known else None,
        server=filters["server"] or None,
        submission=filters["submission"] or None,
        user=filters["user"] or None,
        limit=PAGE_SIZE,
        cursor=cursor,
    )
    query = urlencode({name: value for name, value in filters.items() if value})
    return render(
        request,
        "tasks.html",
        Frame(caller=caller, now=clock(), area="tasks"),
        {
            "tasks": found.tasks,
            "following": urlencode({"cursor": found.next}) if found.next else None,
            "is_first": cursor is None,
            "filters": filters,
            "query": query,
            "statuses": tuple(TaskStatus),
        },
    )
