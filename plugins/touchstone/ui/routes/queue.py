"""The queue: who waits for a slot, at which place, why, and until about when."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import JsonValue

from touchstone.ui.dependencies import CallerDep, ClockDep, QueueDep
from touchstone.ui.waiting import describe_dispatcher, show

router = APIRouter()


@router.get("/queue")
def get_queue(caller: CallerDep, queue: QueueDep, clock: ClockDep) -> dict[str, JsonValue]:
    """Return what waits, of the submissions that the caller may see, and what there is."""
    dispatcher = describe_dispatcher(queue, clock()).model_dump(mode="json")
    if queue is None:
        return {"dispatcher": dispatcher, "waiting": [], "total": 0, "servers": [], "estimates": {}}
    waiting = queue.waiting
    if not caller.is_admin:
        # Whose they are the dispatcher has published with them: nothing need be looked up.
        waiting = tuple(task for task in waiting if task.submitted_by == caller.name)
    return {
        "dispatcher": dispatcher,
        "waiting": [
            {"submission_id": task.submission_id, **(show(task) or {})} for task in waiting
        ],
        "total": len(queue.waiting),
        "servers": [server.model_dump(mode="json") for server in queue.servers],
        "estimates": queue.estimates.model_dump(mode="json"),
        "tick_seconds": queue.tick_seconds,
    }
