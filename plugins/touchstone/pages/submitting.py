"""The page that submits a module: from a git repository, or as an archive that it uploads."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, Response
from pydantic import JsonValue

from touchstone.core.answers.sources import SourceReport
from touchstone.core.conf import MAX_NOTES, UPLOAD_SCHEME, WAIVED, System, parse_conf
from touchstone.core.names import build_id, is_submission_id
from touchstone.core.refs import MAX_REF
from touchstone.core.remotes import MAX_URL
from touchstone.core.schedule import FORMS, MAX_ID, MAX_PATH
from touchstone.core.waivers import MAX_COLUMN, MAX_WAIVED
from touchstone.pages.posted import Posted, TakenArchive, name_error, read_posted_with_archive
from touchstone.pages.rendering import Frame, lead, render
from touchstone.pages.schedule_form import (
    build_fieldsets,
    list_values,
    read_schedule,
    write_schedule,
    write_values,
)
from touchstone.pages.scheduling import CHANGES
from touchstone.services.events import EventKeeper
from touchstone.services.looking import Looker, LooksBusy
from touchstone.services.planning import Planner
from touchstone.services.sending import RunTaken, Sender, send_submission
from touchstone.settings import Settings
from touchstone.stores.objects import ObjectStore
from touchstone.ui.archives import UploadGate, UploadTooLarge
from touchstone.ui.dependencies import (
    Caller,
    CallerDep,
    ClockDep,
    ObjectsDep,
    RecordsDep,
    SettingsDep,
    require_submitter,
)
from touchstone.ui.queries import get_visible_submission
from touchstone.ui.routes.content import get_gate
from touchstone.ui.routes.events import KeeperDep
from touchstone.ui.routes.plans import PlannerDep
from touchstone.ui.routes.sending import SenderDep
from touchstone.ui.routes.sources import LookerDep
from touchstone_agent.protocol.errors import ConfigurationError

router = APIRouter()

ID: Final = "id"
ARCHIVE: Final = "archive"
FIELDS: Final = ("source", "system", "ref", "path", WAIVED, "notes")
"""Fields of a new submission, as a run's conf has them."""

_INVALID: Final = 422
_PLAIN: Final = {
    "source": "",
    "system": System.FEATURE_SET.value,
    "ref": "",
    "path": ".",
    WAIVED: "",
    "notes": "",
}


_LIMITS: Final = {
    "source": MAX_URL,
    "ref": MAX_REF,
    "path": MAX_PATH,
    WAIVED: MAX_WAIVED * (MAX_COLUMN + 1),
    "notes": MAX_NOTES,
}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """
    The page of one moment.

    :param submission_id: The id that the submission will have.
    :param values: What the fields of the submission hold.
    :param schedule: What the fields of a schedule hold.
    :param errors: What is wrong, by field; under an empty name what is wrong with no field.
    :param report: What was found when the source was looked at; ``None`` before that.
    :param status: HTTP status.
    """

    submission_id: str
    values: Mapping[str, str]
    schedule: Mapping[str, str]
    errors: Mapping[str, str] = field(default_factory=dict)
    report: SourceReport | None = None
    status: int = 200


@router.get("/new", dependencies=[Depends(require_submitter)])
def show_form(
    request: Request,
    caller: CallerDep,
    records: RecordsDep,
    settings: SettingsDep,
    keeper: KeeperDep,
    clock: ClockDep,
    like: Annotated[str, Query(max_length=MAX_ID)] = "",
) -> HTMLResponse:
    """
    Show the form.

    :param like: A submission that fills it in.
    """
    values, schedule = dict(_PLAIN), write_values({})
    if like:
        found = get_visible_submission(records, caller, like)
        values |= {
            "source": found.source_url or "",
            "system": found.system.value if found.system else System.FEATURE_SET.value,
            "ref": found.source_ref or "",
            "path": found.source_path or ".",
            WAIVED: "\n".join(found.waived_columns),
            "notes": found.notes or "",
        }
        if found.schedule is not None:
            schedule = write_schedule(found.schedule)
    shown = Shown(submission_id=_build_id(clock), values=values, schedule=schedule)
    return _show(request, caller, clock, shown, settings, keeper)


@router.post("/new", dependencies=CHANGES)
async def submit(
    request: Request,
    caller: CallerDep,
    objects: ObjectsDep,
    settings: SettingsDep,
    planner: PlannerDep,
    sender: SenderDep,
    keeper: KeeperDep,
    clock: ClockDep,
    gate: Annotated[UploadGate, Depends(get_gate)],
) -> Response:
    """Submit what was typed, once however often it is sent, and show the submission."""

    def finish(posted: Posted, taken: TakenArchive | None) -> Response:
        found = _submit(posted, taken, caller, objects, planner, sender, clock)
        if isinstance(found, str):
            return lead(request, f"/submissions/{found}")
        return _show(request, caller, clock, found, settings, keeper)

    return await _read(request, caller, objects, settings, keeper, clock, gate, finish)


@router.post("/new/check", dependencies=CHANGES)
async def check(
    request: Request,
    caller: CallerDep,
    objects: ObjectsDep,
    settings: SettingsDep,
    looker: LookerDep,
    keeper: KeeperDep,
    clock: ClockDep,
    gate: Annotated[UploadGate, Depends(get_gate)],
) -> Response:
    """Look at the source that was typed, and show the form again with what was found."""

    def finish(posted: Posted, taken: TakenArchive | None) -> Response:
        return _show(
            request, caller, clock, _look(posted, taken, caller, looker, clock), settings, keeper
        )

    return await _read(request, caller, objects, settings, keeper, clock, gate, finish)


async def _read(
    request: Request,
    caller: Caller,
    objects: ObjectStore,
    settings: Settings,
    keeper: EventKeeper,
    clock: ClockDep,
    gate: UploadGate,
    finish: Callable[[Posted, TakenArchive | None], Response],
) -> Response:
    """Answer a form and its archive."""
    try:
        posted, taken = await read_posted_with_archive(
            request,
            user=caller.name,
            gate=gate,
            objects=objects,
            bucket=settings.content_bucket,
            limit=settings.content_bytes,
        )
    except UploadTooLarge as error:
        # Of a form that is too large nothing is read: what was typed cannot be shown again.
        shown = Shown(
            submission_id=_build_id(clock),
            values=_PLAIN,
            schedule=write_values({}),
            errors=_blame_archive(error),
            status=413,
        )
        return await run_in_threadpool(_show, request, caller, clock, shown, settings, keeper)
    return await run_in_threadpool(finish, posted, taken)


def _submit(
    posted: Posted,
    taken: TakenArchive | None,
    caller: Caller,
    objects: ObjectStore,
    planner: Planner,
    sender: Sender,
    clock: ClockDep,
) -> str | Shown:
    """Return the submission that was sent, or the form again with what is wrong."""
    values, errors = _read_values(posted, taken)
    submission_id = posted.get(ID)
    if not is_submission_id(submission_id):
        submission_id = _build_id(clock)
        errors.setdefault("", "The form was not whole; look at it and send it again.")
    schedule, status = list_values(posted), _INVALID
    if not errors:
        try:
            send_submission(
                submission_id,
                _build_conf(values, read_schedule(posted)),
                by=caller.name,
                sender=sender,
                planner=planner,
                objects=objects,
            )
        except ConfigurationError as error:
            if isinstance(error, RunTaken):
                status, submission_id = 409, _build_id(clock)
            errors = name_error(error, {*FIELDS, *FORMS})
        else:
            return submission_id
    return Shown(
        submission_id=submission_id, values=values, schedule=schedule, errors=errors, status=status
    )


def _look(
    posted: Posted, taken: TakenArchive | None, caller: Caller, looker: Looker, clock: ClockDep
) -> Shown:
    """Return the form again, with what is known of its source or what is wrong with it."""
    values, errors = _read_values(posted, taken)
    submission_id = posted.get(ID)
    report, status = None, 200
    if not errors:
        try:
            source = parse_conf(_build_conf({**values, "notes": ""}, {})).source
            assert source is not None  # noqa: S101 - without one there is no conf
            report = looker.look(source, user=caller.name, is_admin=caller.is_admin)
        except ConfigurationError as error:
            errors = name_error(error, {*FIELDS})
        except LooksBusy as error:
            errors, status = {"": str(error).partition(": ")[2]}, 429
    return Shown(
        # The submission keeps the id that it will have, if that is one.
        submission_id=submission_id if is_submission_id(submission_id) else _build_id(clock),
        values=values,
        schedule=list_values(posted),
        errors=errors,
        report=report,
        status=_INVALID if errors and status == 200 else status,
    )


def _read_values(
    posted: Posted, taken: TakenArchive | None
) -> tuple[dict[str, str], dict[str, str]]:
    """Return what a form says of a submission, and what is wrong with its archive."""
    values = {name: "\n".join(posted.get(name).splitlines()) for name in FIELDS}
    errors: dict[str, str] = {}
    if taken is not None and taken.source is not None:
        # The archive is there: it need not be chosen again if something else is wrong.
        values["source"] = taken.source
    if taken is not None and taken.problem is not None:
        errors |= _blame_archive(taken.problem)
    return values, errors


def _build_conf(
    values: Mapping[str, str], schedule: Mapping[str, JsonValue]
) -> dict[str, JsonValue]:
    conf: dict[str, JsonValue] = {name: value for name, value in values.items() if value}
    if values[WAIVED]:
        conf[WAIVED] = [*values[WAIVED].splitlines()]
    if not values["source"]:
        raise ConfigurationError("source: give a git URL, or choose an archive")
    # As in Airflow's form: the other fields alone make no schedule.
    return conf | (dict(schedule) if "intervals" in schedule else {})


def _blame_archive(problem: object) -> dict[str, str]:
    # The messages begin with the name that the API's route has for it.
    return {ARCHIVE: str(problem).partition(": ")[2] or str(problem)}


def _build_id(clock: ClockDep) -> str:
    return build_id(clock(), secrets.token_hex(3))


def _show(
    request: Request,
    caller: Caller,
    clock: ClockDep,
    shown: Shown,
    settings: Settings,
    keeper: EventKeeper,
) -> HTMLResponse:
    frame = Frame(caller=caller, now=clock(), area="submissions")
    source = shown.values["source"]
    is_upload = source.startswith(UPLOAD_SCHEME)
    answer = render(
        request,
        "new.html",
        frame,
        {
            "submission_id": shown.submission_id,
            "values": shown.values,
            "sha256": source.removeprefix(UPLOAD_SCHEME) if is_upload else None,
            "systems": tuple(System),
            "errors": shown.errors,
            "fieldsets": build_fieldsets(shown.schedule, shown.errors, is_needed=False),
            "has_schedule": shown.schedule != write_values({})
            or bool(set(shown.errors) & set(FORMS)),
            "limits": _LIMITS,
            "limit": settings.content_bytes,
            "hosts": settings.git_hosts,
            "connection": settings.git_conn_id,
            "report": shown.report,
            "quotas": shown.report.quotas if shown.report else keeper.list_quotas(caller.name),
            "is_admin": caller.is_admin,
        },
    )
    answer.status_code = shown.status
    return answer
