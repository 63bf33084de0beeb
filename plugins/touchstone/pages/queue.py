"""The page of what waits for a slot."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from touchstone.pages.rendering import Frame, render
from touchstone.ui.dependencies import CallerDep, ClockDep, QueueDep
from touchstone.ui.waiting import describe_dispatcher

router = APIRouter()

MAX_ROWS = 500
"""More are counted, and not shown."""


@router.get("/queue")
def show_queue(
    request: Request, caller: CallerDep, queue: QueueDep, clock: ClockDep
) -> HTMLResponse:
    """Show the waiting tasks that the caller may see, the next one first."""
    waiting = queue.waiting if queue else ()
    visible = tuple(task for task in waiting if caller.is_admin or task.submitted_by == caller.name)
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
