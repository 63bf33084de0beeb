"""The page of servers and RunPod, for admins."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from touchstone.client.answers import FleetStatus
from touchstone.client.fleet_tables import list_remarks
from touchstone.pages.origin import require_same_origin
from touchstone.pages.rendering import Frame, lead, render
from touchstone.ui.dependencies import CallerDep, ClockDep, QueueDep, RecordsDep, require_admin
from touchstone.ui.routes import fleet as api
from touchstone.ui.routes.fleet import KeeperDep

router = APIRouter()

CHANGES = [Depends(require_admin), Depends(require_same_origin)]


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


@router.post("/fleet/servers/{name}/drain", dependencies=CHANGES)
def drain_server(
    request: Request, caller: CallerDep, keeper: KeeperDep, name: str
) -> RedirectResponse:
    """Let nothing new start on a server, and show the fleet."""
    keeper.drain_server(name, by=caller.name)
    return lead(request, "/fleet")


@router.post("/fleet/servers/{name}/attach", dependencies=CHANGES)
def attach_server(
    request: Request, caller: CallerDep, keeper: KeeperDep, name: str
) -> RedirectResponse:
    """Give a drained server the slots that it had, and show the fleet."""
    keeper.attach_server(name, slots=None, by=caller.name)
    return lead(request, "/fleet")


@router.post("/fleet/pause", dependencies=CHANGES)
def pause_placements(
    request: Request, caller: CallerDep, records: RecordsDep, clock: ClockDep
) -> RedirectResponse:
    """Let nothing new start anywhere, and show the fleet."""
    api.pause_placements(caller, records, clock, api.PauseBody())
    return lead(request, "/fleet")


@router.post("/fleet/resume", dependencies=CHANGES)
def resume_placements(
    request: Request, caller: CallerDep, records: RecordsDep, clock: ClockDep
) -> RedirectResponse:
    """Let tasks start again, and show the fleet."""
    api.resume_placements(caller, records, clock, api.EmptyBody())
    return lead(request, "/fleet")
