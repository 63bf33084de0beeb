"""The fleet: its file, its servers' slots, and whether anything new may start."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from touchstone.core.answers.fleet import FleetReport, Placements, ServerWork
from touchstone.core.documents import MAX_CHARACTERS
from touchstone.core.fleet import parse_fleet
from touchstone.core.records.notes import Control
from touchstone.services import fleet as dispatcher
from touchstone.services.fleet import FleetKeeper, Pools
from touchstone.ui.dependencies import (
    CallerDep,
    ClockDep,
    ObjectsDep,
    QueueDep,
    RecordsDep,
    SettingsDep,
    require_admin,
    require_json,
)
from touchstone.ui.waiting import describe_work, read_outlook
from touchstone_agent.protocol.errors import ConfigurationError

router = APIRouter()

CHANGES = [Depends(require_admin), Depends(require_json)]
"""What changing needs; and checking, because reading a long document costs the server a second."""
MAX_REASON: Final = 500
"""Characters of a pause's reason."""


class FleetBody(BaseModel):
    """
    A fleet file.

    :param text: TOML.
    """

    model_config = ConfigDict(extra="forbid")

    text: str = Field(max_length=MAX_CHARACTERS)


class EmptyBody(BaseModel):
    """An empty object."""

    model_config = ConfigDict(extra="forbid")


class AttachBody(BaseModel):
    """
    Body of an attach.

    :param slots: Trainings at a time from now on; ``None`` for what the server had.
    """

    model_config = ConfigDict(extra="forbid")

    slots: int | None = Field(default=None, strict=True, ge=-(2**31), lt=2**31)


Slots = Annotated[int, Field(strict=True, ge=-(2**31), lt=2**31)]


class SeenSlots(BaseModel):
    """
    Slots as the caller has seen them.

    :param slots: Trainings at a time.
    :param validation_slots: Validations at a time.
    """

    model_config = ConfigDict(extra="forbid")

    slots: Slots
    validation_slots: Slots


class SlotsBody(BaseModel):
    """
    Body of a change of slots.

    :param slots: Trainings at a time from now on.
    :param validation_slots: Validations at a time; ``None`` for as many as now.
    :param seen: The slots that it is a change of; if the server has others, it is refused (409).
    """

    model_config = ConfigDict(extra="forbid")

    slots: Slots
    validation_slots: Slots | None = None
    seen: SeenSlots | None = None


class PauseBody(BaseModel):
    """
    Body of a pause.

    :param reason: Why, in one line, for users who wait.
    """

    model_config = ConfigDict(extra="forbid")

    reason: str | None = Field(default=None, max_length=MAX_REASON)


def get_pools() -> Pools:
    """Return Airflow's pools."""
    return dispatcher.get_airflow_pools()


async def get_keeper(
    records: RecordsDep,
    settings: SettingsDep,
    clock: ClockDep,
    pools: Annotated[Pools, Depends(get_pools)],
) -> FleetKeeper:
    """Return what knows servers and pools."""
    return FleetKeeper(records=records, pools=pools, settings=settings, clock=clock)


KeeperDep = Annotated[FleetKeeper, Depends(get_keeper)]


@router.get("/fleet", dependencies=[Depends(require_admin)])
def get_fleet(keeper: KeeperDep, queue: QueueDep, clock: ClockDep) -> dict[str, JsonValue]:
    """Return how servers and pools are, where they differ from the file, and what goes wrong."""
    dispatcher = describe_work(queue, clock()).model_dump(mode="json")
    return {**keeper.build_status(), "dispatcher": dispatcher}


@router.post("/fleet/check", dependencies=CHANGES)
def check_fleet(keeper: KeeperDep, body: FleetBody) -> FleetReport:
    """Return what applying a fleet file would do; changes nothing."""
    return keeper.check_fleet(parse_fleet(body.text))


@router.post("/fleet/apply", dependencies=CHANGES)
def apply_fleet(caller: CallerDep, keeper: KeeperDep, body: FleetBody) -> FleetReport:
    """Apply a fleet file, all of it or nothing."""
    fleet = parse_fleet(body.text)
    refused = keeper.check_fleet(fleet).refused
    if refused:
        raise ConfigurationError(refused[0])
    return keeper.apply_fleet(fleet, by=caller.name)


@router.post("/fleet/reload", dependencies=CHANGES)
def reload_fleet(
    caller: CallerDep,
    keeper: KeeperDep,
    settings: SettingsDep,
    body: EmptyBody,  # noqa: ARG001 (checked to be empty)
) -> FleetReport:
    """Apply the installation's own fleet file, as a restart of the dispatcher would."""
    path = dispatcher.find_fleet_file(settings)
    if path is None:
        raise ConfigurationError(
            "there is no fleet file here; set TOUCHSTONE_FLEET_FILE, or send one to /fleet/apply"
        )
    return keeper.apply_fleet(dispatcher.load_fleet(path), by=caller.name)


@router.post("/servers/{name}/drain", dependencies=CHANGES)
def drain_server(
    caller: CallerDep,
    keeper: KeeperDep,
    name: str,
    body: EmptyBody,  # noqa: ARG001 (checked to be empty)
) -> dict[str, JsonValue]:
    """Let nothing new start on a server; what runs there goes on."""
    return keeper.drain_server(name, by=caller.name)


@router.post("/servers/{name}/attach", dependencies=CHANGES)
def attach_server(
    caller: CallerDep, keeper: KeeperDep, name: str, body: AttachBody
) -> dict[str, JsonValue]:
    """Give a drained server its slots back."""
    return keeper.attach_server(name, slots=body.slots, by=caller.name)


@router.get("/servers/{name}/work", dependencies=[Depends(require_admin)])
def get_work(
    keeper: KeeperDep, objects: ObjectsDep, settings: SettingsDep, name: str
) -> ServerWork:
    """Return what runs on a server, until about when, and what draining or attaching changes."""
    return keeper.foresee(name, read_outlook(objects, settings))


@router.post("/servers/{name}/slots", dependencies=CHANGES)
def set_slots(
    caller: CallerDep, keeper: KeeperDep, name: str, body: SlotsBody
) -> dict[str, JsonValue]:
    """Give a server another number of slots; what runs there goes on."""
    return keeper.set_slots(
        name,
        slots=body.slots,
        validation_slots=body.validation_slots,
        seen=(body.seen.slots, body.seen.validation_slots) if body.seen else None,
        by=caller.name,
    )


@router.post("/placements/pause", dependencies=CHANGES)
def pause_placements(
    caller: CallerDep, records: RecordsDep, clock: ClockDep, body: PauseBody
) -> Placements:
    """Let nothing new start anywhere; terminations, uploads and metering go on."""
    return _show(
        dispatcher.set_paused(records, paused=True, by=caller.name, reason=body.reason, now=clock())
    )


@router.post("/placements/resume", dependencies=CHANGES)
def resume_placements(
    caller: CallerDep,
    records: RecordsDep,
    clock: ClockDep,
    body: EmptyBody,  # noqa: ARG001 (checked to be empty)
) -> Placements:
    """Let tasks start again."""
    return _show(
        dispatcher.set_paused(records, paused=False, by=caller.name, reason=None, now=clock())
    )


def _show(control: Control) -> Placements:
    return Placements(
        paused=control.is_paused,
        by=control.by,
        at=control.at.isoformat() if control.at else None,
        reason=control.reason,
    )
