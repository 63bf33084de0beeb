"""The page of servers and RunPod, for admins."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from touchstone.client.answers import FleetStatus
from touchstone.client.fleet_tables import list_remarks, tell_drain, tell_pause
from touchstone.core.answers.fleet import ServerWork
from touchstone.core.queue import Queue
from touchstone.pages.origin import require_same_origin
from touchstone.pages.posted import Posted, PostedDep, name_error
from touchstone.pages.rendering import Frame, lead, render
from touchstone.services.fleet import MAX_SLOTS, FleetKeeper, SlotsChanged
from touchstone.ui.dependencies import (
    Caller,
    CallerDep,
    ClockDep,
    ObjectsDep,
    QueueDep,
    RecordsDep,
    SettingsDep,
    require_admin,
)
from touchstone.ui.routes import fleet as api
from touchstone.ui.routes.fleet import KeeperDep
from touchstone_agent.protocol.errors import ConfigurationError

router = APIRouter()

CHANGES = [Depends(require_admin), Depends(require_same_origin)]
SLOTS: Final = ("slots", "validation_slots")
"""Fields of the form of a server's slots."""
REASON: Final = "reason"
"""The field of the form that pauses placements."""

_NUMBER: Final = re.compile(r"-?[0-9]{1,9}", re.ASCII)


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


@dataclass(frozen=True, kw_only=True)
class Shown:
    """
    A form of one moment: of a server's slots, or of a pause.

    :param values: What its fields hold; the present slots where one is not in it.
    :param errors: What is wrong, by field; under an empty name what is wrong with no field.
    :param status: HTTP status.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    status: int = 200


@router.get("/fleet/servers/{name}", dependencies=[Depends(require_admin)])
def show_server(
    request: Request,
    caller: CallerDep,
    keeper: KeeperDep,
    objects: ObjectsDep,
    settings: SettingsDep,
    clock: ClockDep,
    name: str,
) -> HTMLResponse:
    """Show what a server does, and what a drain, an attach or other slots would change."""
    work = api.get_work(keeper, objects, settings, name)
    return _show(request, caller, clock, work, Shown())


@router.post("/fleet/servers/{name}/slots", dependencies=CHANGES)
def set_slots(
    request: Request,
    caller: CallerDep,
    keeper: KeeperDep,
    objects: ObjectsDep,
    settings: SettingsDep,
    clock: ClockDep,
    posted: PostedDep,
    name: str,
) -> Response:
    """Give a server other slots, and show it; or the form again, with what is wrong."""
    try:
        numbers = {each: _read_number(posted, each) for each in SLOTS}
        keeper.set_slots(
            name,
            slots=numbers["slots"],
            validation_slots=numbers["validation_slots"],
            seen=(_read_number(posted, "seen"), _read_number(posted, "seen_validation")),
            by=caller.name,
        )
    except ConfigurationError as error:
        work = api.get_work(keeper, objects, settings, name)
        is_outdated = isinstance(error, SlotsChanged)
        shown = Shown(
            # What has changed meanwhile is shown as it is now: it is decided anew.
            values={} if is_outdated else {each: posted.get(each) for each in SLOTS},
            errors=name_error(error, SLOTS),
            status=409 if is_outdated else 422,
        )
        return _show(request, caller, clock, work, shown)
    return lead(request, f"/fleet/servers/{quote(name, safe='')}")


@router.post("/fleet/servers/{name}/drain", dependencies=CHANGES)
def drain_server(
    request: Request, caller: CallerDep, keeper: KeeperDep, name: str
) -> RedirectResponse:
    """Let nothing new start on a server, and show it."""
    keeper.drain_server(name, by=caller.name)
    return lead(request, f"/fleet/servers/{quote(name, safe='')}")


@router.post("/fleet/servers/{name}/attach", dependencies=CHANGES)
def attach_server(
    request: Request,
    caller: CallerDep,
    keeper: KeeperDep,
    objects: ObjectsDep,
    settings: SettingsDep,
    clock: ClockDep,
    posted: PostedDep,
    name: str,
) -> Response:
    """Give a drained server its slots back, or others, and show it."""
    try:
        slots = _read_number(posted, "slots") if posted.get("slots") else None
        keeper.attach_server(name, slots=slots, by=caller.name)
    except ConfigurationError as error:
        work = api.get_work(keeper, objects, settings, name)
        shown = Shown(
            values={"slots": posted.get("slots")}, errors=name_error(error, SLOTS), status=422
        )
        return _show(request, caller, clock, work, shown)
    return lead(request, f"/fleet/servers/{quote(name, safe='')}")


def _read_number(posted: Posted, name: str) -> int:
    text = posted.get(name)
    if not _NUMBER.fullmatch(text):
        raise ConfigurationError(f"{name}: give a whole number, 0 to {MAX_SLOTS}")
    return int(text)


def _show(
    request: Request, caller: Caller, clock: ClockDep, work: ServerWork, shown: Shown
) -> HTMLResponse:
    frame = Frame(caller=caller, now=clock(), area="fleet")
    told = tell_drain(work)
    now = {"slots": work.slots, "validation_slots": work.validation_slots}
    answer = render(
        request,
        "server.html",
        frame,
        {
            "work": work,
            "told": told[:1].upper() + told[1:],
            "values": {name: shown.values.get(name, str(value)) for name, value in now.items()},
            "errors": shown.errors,
            "most": MAX_SLOTS,
        },
    )
    answer.status_code = shown.status
    return answer


@router.get("/fleet/pause", dependencies=[Depends(require_admin)])
def tell_of_pause(
    request: Request, caller: CallerDep, keeper: KeeperDep, queue: QueueDep, clock: ClockDep
) -> Response:
    """Show what a pause of placements would do; nothing is changed."""
    return _show_pause(request, caller, keeper, queue, clock, Shown())


@router.post("/fleet/pause", dependencies=CHANGES)
def pause_placements(
    request: Request,
    caller: CallerDep,
    records: RecordsDep,
    keeper: KeeperDep,
    queue: QueueDep,
    clock: ClockDep,
    posted: PostedDep,
) -> Response:
    """Let nothing new start anywhere, and show the fleet; or the form again, with what is wrong."""
    reason = posted.get(REASON)
    if len(reason) > api.MAX_REASON:
        problem = f"give at most {api.MAX_REASON} characters"
        shown = Shown(values={REASON: reason}, errors={REASON: problem}, status=422)
        return _show_pause(request, caller, keeper, queue, clock, shown)
    api.pause_placements(caller, records, clock, api.PauseBody(reason=reason or None))
    return lead(request, "/fleet")


def _show_pause(
    request: Request,
    caller: Caller,
    keeper: FleetKeeper,
    queue: Queue | None,
    clock: ClockDep,
    shown: Shown,
) -> Response:
    status = FleetStatus.model_validate(api.get_fleet(keeper, queue, clock))
    if status.placements.paused:
        # By somebody else, a moment ago: the fleet's page says by whom.
        return lead(request, "/fleet")
    # Those that stand ready on a server wait as well, and the pool has not them.
    waiting = len(queue.waiting) if queue else status.waiting
    told = tell_pause(status, waiting)
    answer = render(
        request,
        "pause.html",
        Frame(caller=caller, now=clock(), area="fleet", dispatcher=status.dispatcher),
        {
            "told": told[:1].upper() + told[1:],
            "reason": shown.values.get(REASON, ""),
            "errors": shown.errors,
            "limit": api.MAX_REASON,
        },
    )
    answer.status_code = shown.status
    return answer


@router.post("/fleet/resume", dependencies=CHANGES)
def resume_placements(
    request: Request, caller: CallerDep, records: RecordsDep, clock: ClockDep
) -> RedirectResponse:
    """Let tasks start again, and show the fleet."""
    api.resume_placements(caller, records, clock, api.EmptyBody())
    return lead(request, "/fleet")
