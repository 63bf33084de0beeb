"""The page of what waits for a slot, and of the order in which it does."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import ValidationError

from touchstone.core.priorities import Move
from touchstone.pages.origin import require_same_origin
from touchstone.pages.posted import PostedDep
from touchstone.pages.rendering import Frame, lead, render
from touchstone.ui.dependencies import CallerDep, ClockDep, QueueDep, RecordsDep, require_admin
from touchstone.ui.routes import queue as api
from touchstone.ui.waiting import describe_dispatcher
from touchstone_agent.protocol.errors import ConfigurationError

router = APIRouter()

MAX_ROWS = 500
"""More are counted, and not shown."""

CHANGES = [Depends(require_admin), Depends(require_same_origin)]


@router.get("/queue")
def show_queue(
    request: Request, caller: CallerDep, queue: QueueDep, clock: ClockDep
) -> HTMLResponse:
    """Show the waiting tasks that the caller may see, the next one first."""
    waiting = queue.waiting if queue else ()
    visible = [task for task in waiting if caller.is_admin or task.submitted_by == caller.name]
    visible.sort(key=lambda task: (task.is_validation, task.position))
    frame = Frame(
        caller=caller, now=clock(), area="queue", dispatcher=describe_dispatcher(queue, clock())
    )
    return render(
        request,
        "queue.html",
        frame,
        {
            "tasks": visible[:MAX_ROWS],
            "hidden": max(0, len(visible) - MAX_ROWS),
            "total": len(waiting),
        },
    )


@router.post("/queue/move", dependencies=CHANGES)
def move_task(
    request: Request,
    caller: CallerDep,
    records: RecordsDep,
    queue: QueueDep,
    clock: ClockDep,
    posted: PostedDep,
) -> RedirectResponse:
    """Change the place of a task that waits, and show the queue."""
    try:
        body = api.PriorityBody(
            submission_id=posted.get("submission_id"),
            task_id=posted.get("task_id"),
            move=Move(posted.get("move")),
        )
    except (ValidationError, ValueError) as error:
        raise ConfigurationError("move: the form names no task, or no place for it") from error
    api.change_order(caller, records, queue, clock, body)
    return lead(request, "/queue")
