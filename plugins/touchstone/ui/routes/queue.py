"""The queue: who waits for a slot, at which place, why, until about when, and in which order."""

from __future__ import annotations

from typing import Annotated, Self

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, model_validator

from touchstone.core.answers.acts import Reordered
from touchstone.core.priorities import Move
from touchstone.core.schedule import HIGHEST_PRIORITY, LOWEST_PRIORITY
from touchstone.services.priorities import move_waiting, set_priority
from touchstone.ui.dependencies import (
    CallerDep,
    ClockDep,
    QueueDep,
    RecordsDep,
    require_admin,
    require_json,
)
from touchstone.ui.waiting import describe_dispatcher, show

router = APIRouter()


class PriorityBody(BaseModel):
    """
    Body of a change of the order: one of ``priority`` and ``move``.

    :param submission_id: Of which submission.
    :param task_id: Of which task; ``None`` for all of them.
    :param priority: The new priority; ``null`` for the schedule's own again.
    :param move: Where to, among what waits.
    """

    model_config = ConfigDict(extra="forbid")

    submission_id: Annotated[str, StringConstraints(max_length=48)]
    task_id: Annotated[str, StringConstraints(max_length=48)] | None = None
    priority: Annotated[int, Field(strict=True, ge=LOWEST_PRIORITY, le=HIGHEST_PRIORITY)] | None = (
        None
    )
    move: Move | None = None

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if ("priority" in self.model_fields_set) == (self.move is not None):
            raise ValueError(f"give one of priority and move ({', '.join(Move)})")
        return self


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
            {
                "submission_id": task.submission_id,
                **({"submitted_by": task.submitted_by} if caller.is_admin else {}),
                **(show(task) or {}),
            }
            for task in waiting
        ],
        "total": len(queue.waiting),
        "servers": [server.model_dump(mode="json") for server in queue.servers],
        "estimates": queue.estimates.model_dump(mode="json"),
        "tick_seconds": queue.tick_seconds,
    }


@router.post("/queue/priority", dependencies=[Depends(require_admin), Depends(require_json)])
def change_order(
    caller: CallerDep, records: RecordsDep, queue: QueueDep, clock: ClockDep, body: PriorityBody
) -> Reordered:
    """Change the place of what waits; what runs goes on, and the next round obeys."""
    if body.move is not None:
        return move_waiting(
            records,
            queue,
            body.submission_id,
            task_id=body.task_id,
            move=body.move,
            by=caller.name,
            now=clock(),
        )
    return set_priority(
        records,
        queue,
        body.submission_id,
        task_id=body.task_id,
        priority=body.priority,
        by=caller.name,
        now=clock(),
    )
