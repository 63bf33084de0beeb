"""Submitting and scheduling by programs: what the forms do, once for a key however often sent."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Response
from pydantic import Field, JsonValue

from touchstone.core.answers.acts import Sent
from touchstone.core.conf import CONF_KEYS
from touchstone.core.documents import name_field
from touchstone.core.names import build_id, is_submission_id
from touchstone.core.records.audit import Door
from touchstone.core.schedule import MAX_ID, Schedule
from touchstone.services.requests import Requests
from touchstone.services.sending import (
    Keep,
    RunTaken,
    Sender,
    list_run_ids,
    send_schedules,
    send_submission,
)
from touchstone.ui.dependencies import (
    CallerDep,
    ClockDep,
    Key,
    ObjectsDep,
    RecordsDep,
    SettingsDep,
    get_door,
    require_json,
    require_submitter,
)
from touchstone.ui.queries import get_visible_submission
from touchstone.ui.routes.plans import PlannerDep
from touchstone_agent.protocol.errors import ConfigurationError

router = APIRouter(dependencies=[Depends(require_submitter), Depends(require_json)])

SUBMISSION_ID = "submission_id"
Fields = Annotated[
    dict[Annotated[str, Field(max_length=MAX_ID)], JsonValue],
    Body(max_length=len(CONF_KEYS)),
]


async def get_sender(door: Annotated[Door, Depends(get_door)]) -> Sender:
    """Return what starts runs."""
    return Sender.build(is_page=door is Door.PAGE)


async def get_requests(records: RecordsDep, settings: SettingsDep, clock: ClockDep) -> Requests:
    """Return what remembers requests by their keys."""
    return Requests(records=records, table=settings.events_table, clock=clock)


SenderDep = Annotated[Sender, Depends(get_sender)]
RequestsDep = Annotated[Requests, Depends(get_requests)]


@router.post("/submissions", status_code=201)
def submit(
    caller: CallerDep,
    objects: ObjectsDep,
    planner: PlannerDep,
    sender: SenderDep,
    requests: RequestsDep,
    clock: ClockDep,
    response: Response,
    body: Fields,
    key: Key = None,
) -> Sent:
    """
    Submit a module; with ``intervals`` and other fields of a schedule, train it as well.

    A source, and a ref of it, is looked at by the run's first task.

    :raises ConfigurationError: What ``register`` would refuse, with the field's name.
    :raises KeyTaken: If the key stands for another request.
    """
    _check_new(body)
    asked: dict[str, JsonValue] = {"submit": dict(body)}
    known = requests.find(caller.name, key, asked) if key else None
    run_id, is_new = send_submission(
        known or build_id(clock(), secrets.token_hex(3)),
        body,
        by=caller.name,
        sender=sender,
        planner=planner,
        objects=objects,
        keep=_build_keep(requests, caller.name, key, asked),
    )
    if not is_new:
        response.status_code = 200
    return Sent(submission_id=run_id, run_id=run_id, is_new=is_new)


@router.put("/submissions/{submission_id}", status_code=201)
def submit_as(
    caller: CallerDep,
    objects: ObjectsDep,
    planner: PlannerDep,
    sender: SenderDep,
    response: Response,
    submission_id: str,
    body: Fields,
) -> Sent:
    """
    Submit a module under an id of one's own, or replay a training; again it is the same one.

    :raises ConfigurationError: If that can be no id; and what ``register`` would refuse, with the
        field's name.
    :raises RunTaken: If the id belongs to another submission.
    """
    if not is_submission_id(submission_id):
        raise ConfigurationError(
            "id: 3 to 48 of a-z, 0-9 and single dashes, with a letter or digit at both ends"
        )
    _check_new(body)
    try:
        _, is_new = send_submission(
            submission_id,
            body,
            by=caller.name,
            sender=sender,
            planner=planner,
            objects=objects,
            is_own_id=True,
        )
    except RunTaken as error:
        raise RunTaken(f"id: {submission_id!r} is taken; choose another one") from error
    if not is_new:
        response.status_code = 200
    return Sent(submission_id=submission_id, run_id=submission_id, is_new=is_new)


@router.post("/submissions/{submission_id}/schedule", status_code=201)
def schedule(
    caller: CallerDep,
    records: RecordsDep,
    planner: PlannerDep,
    sender: SenderDep,
    requests: RequestsDep,
    response: Response,
    submission_id: str,
    body: Fields,
    key: Key = None,
) -> Sent:
    """
    Schedule an accepted submission.

    :raises RecordNotFound: If it does not exist, or is somebody else's.
    :raises ConfigurationError: What ``register`` would refuse, with the field's name.
    :raises KeyTaken: If the key stands for another request.
    """
    found = get_visible_submission(records, caller, submission_id)
    if unknown := sorted(set(body) - set(Schedule.model_fields)):
        raise ConfigurationError(f"{name_field(unknown[:1])}: is no field of a schedule")

    asked: dict[str, JsonValue] = {"schedule": dict(body), SUBMISSION_ID: submission_id}
    known = requests.find(caller.name, key, asked) if key else None
    run_id = known or sender.choose_run_id(list_run_ids(found))
    started = send_schedules(
        {submission_id: run_id},
        body,
        by=caller.name,
        sender=sender,
        planner=planner,
        keep=_build_keep(requests, caller.name, key, asked),
    )
    if not started:
        response.status_code = 200
    return Sent(
        submission_id=submission_id,
        run_id=started.get(submission_id, run_id),
        is_new=bool(started),
    )


def _check_new(body: Mapping[str, JsonValue]) -> None:
    if SUBMISSION_ID in body:
        raise ConfigurationError(
            f"{SUBMISSION_ID}: a new submission gets its own; an accepted one is scheduled at "
            "/submissions/ID/schedule"
        )


def _build_keep(
    requests: Requests, user: str, key: str | None, asked: Mapping[str, JsonValue]
) -> Keep:
    """Return what writes down the run of a key; what is refused before takes no key."""
    return lambda run_id: requests.keep(user, key, asked, run_id) if key else run_id
