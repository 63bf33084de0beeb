"""The queue: who waits for a slot, at which place, why, and until about when."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from touchstone.ui.dependencies import CallerDep, ClockDep, QueueDep, RecordsDep
from touchstone.ui.queries import list_visible_submissions
from touchstone.ui.waiting import describe_dispatcher, show

router = APIRouter()

_ALL = 1_000_000


@router.get("/queue")
def get_queue(
    caller: CallerDep, records: RecordsDep, queue: QueueDep, clock: ClockDep
) -> dict[str, Any]:
    """Return what waits, of the submissions that the caller may see, and what there is."""
    dispatcher = describe_dispatcher(queue, clock())
    if queue is None:
        return {"dispatcher": dispatcher, "waiting": [], "total": 0, "servers": [], "estimates": {}}
    waiting = queue.waiting
    if not caller.is_admin:
        found, _ = list_visible_submissions(records, caller, status=None, user=None, limit=_ALL)
        own = {record["submission_id"] for record in found}
        waiting = tuple(task for task in waiting if task.submission_id in own)
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
