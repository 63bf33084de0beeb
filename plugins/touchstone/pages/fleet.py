"""The page of servers and RunPod, for admins."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse

from touchstone.client.answers import FleetStatus
from touchstone.client.fleet_tables import list_remarks
from touchstone.pages.rendering import Frame, render
from touchstone.ui.dependencies import CallerDep, ClockDep, QueueDep, require_admin
from touchstone.ui.routes import fleet as api
from touchstone.ui.routes.fleet import KeeperDep

router = APIRouter()


@router.get("/fleet", dependencies=[Depends(require_admin)])
def show_fleet(
    request: Request, caller: CallerDep, keeper: KeeperDep, queue: QueueDep, clock: ClockDep
) -> HTMLResponse:
    """Show how servers and RunPod are, and what an admin has to look at."""
    status = FleetStatus.model_validate(api.get_fleet(keeper, queue, clock))
    frame = Frame(caller=caller, now=clock(), area="fleet", dispatcher=status.dispatcher)
    return render(
        request,
        "fleet.html",
        frame,
        {"status": status, "remarks": list_remarks(status)},
    )
