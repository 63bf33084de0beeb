"""What the small view on Airflow's home page shows."""

from __future__ import annotations

from fastapi import APIRouter

from touchstone.core.answers.fleet import Summary
from touchstone.core.records.notes import RentalNote
from touchstone.core.schedule import Platform
from touchstone.ui.dependencies import CallerDep, ClockDep, QueueDep, RecordsDep
from touchstone.ui.waiting import describe_dispatcher

router = APIRouter()


@router.get("/home.json")
def show_summary(
    caller: CallerDep, records: RecordsDep, queue: QueueDep, clock: ClockDep
) -> Summary:
    """Return what waits and runs, and whether somebody places it; to admins what money is left."""
    places = queue.servers if queue else ()
    servers = [each for each in places if each.platform == Platform.ON_PREM]
    balance = records.find_note(RentalNote).balance_usd if caller.is_admin else None
    return Summary(
        waiting=len(queue.waiting) if queue else 0,
        own_waiting=sum(task.submitted_by == caller.name for task in queue.waiting) if queue else 0,
        running=sum(max(each.slots - each.free, 0) for each in servers),
        slots=sum(max(each.slots, 0) for each in servers),
        servers=len(servers),
        servers_alive=sum(each.is_alive for each in servers),
        balance_usd=None if balance is None else f"{balance:.2f}",
        dispatcher=describe_dispatcher(queue, clock()),
    )
