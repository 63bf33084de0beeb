"""The page that schedules accepted submissions: a form, the plan of what it says, and its start."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import JsonValue

from touchstone.core.answers.plans import SchedulePlan
from touchstone.core.conf import MAX_RUNS
from touchstone.core.documents import shorten
from touchstone.core.names import build_run_id
from touchstone.core.records.submissions import Submission
from touchstone.core.schedule import FORMS, MAX_ID
from touchstone.pages.origin import require_same_origin
from touchstone.pages.posted import Posted, PostedDep, name_error
from touchstone.pages.rendering import Frame, lead, render
from touchstone.pages.schedule_form import (
    PREFIX,
    build_fieldsets,
    list_values,
    read_schedule,
    write_schedule,
    write_values,
)
from touchstone.services.planning import MAX_PLANNED, Planner, PlansBusy
from touchstone.services.sending import (
    MORE_RUNS,
    RunTaken,
    Sender,
    list_run_ids,
    send_schedules,
)
from touchstone.stores.records import RecordStore
from touchstone.stores.tables import RecordNotFound
from touchstone.ui.dependencies import (
    Caller,
    CallerDep,
    RecordsDep,
    require_submitter,
)
from touchstone.ui.queries import get_visible_submission
from touchstone.ui.routes.plans import PlannerDep
from touchstone.ui.routes.sending import SenderDep
from touchstone_agent.protocol.errors import ConfigurationError, TransientError

router = APIRouter()

CHANGES = [Depends(require_submitter), Depends(require_same_origin)]
SUBMISSIONS: Final = "submissions"
RUN: Final = "run"

_INVALID: Final = 422
_BETWEEN: Final = re.compile(r"[\s,;]+")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """
    The page of one moment.

    :param ids: The submissions, as they were typed.
    :param values: What the schedule's fields hold, by field.
    :param errors: What is wrong, by field; under an empty name what is wrong with no field.
    :param plan: The plan; ``None`` before there is one.
    :param hidden: Name and value of each field of the second form, which schedules what was
        planned.
    :param status: HTTP status.
    """

    ids: str
    values: Mapping[str, str]
    errors: Mapping[str, str] = field(default_factory=dict)
    plan: SchedulePlan | None = None
    hidden: Sequence[tuple[str, str]] = ()
    status: int = 200


@dataclass(frozen=True, kw_only=True)
class Scheduled:
    """
    What has become of one submission of several.

    :param submission_id: The submission.
    :param run_id: The run that it has, or would have.
    :param problem: Why it was not scheduled; ``None`` if it was.
    """

    submission_id: str
    run_id: str
    problem: str | None = None


@router.get("/schedule", dependencies=[Depends(require_submitter)])
def show_form(
    request: Request,
    caller: CallerDep,
    records: RecordsDep,
    planner: PlannerDep,
    submission: Annotated[list[str] | None, Query(max_length=MAX_PLANNED)] = None,
    like: Annotated[str, Query(max_length=MAX_ID)] = "",
) -> HTMLResponse:
    """
    Show the form, filled in as an earlier schedule was.

    :param submission: The submissions to schedule.
    :param like: A submission whose schedule fills in the form; the first one's own if empty.
    """
    wanted = [get_visible_submission(records, caller, each) for each in submission or ()]
    model = get_visible_submission(records, caller, like) if like else next(iter(wanted), None)
    earlier = model.schedule if model is not None else None
    shown = Shown(
        ids=" ".join(each.submission_id for each in wanted),
        values=write_schedule(earlier) if earlier else write_values({}),
    )
    return _show(request, caller, planner, shown)


@router.post("/schedule/plan", dependencies=CHANGES)
def plan_schedule(
    request: Request,
    caller: CallerDep,
    records: RecordsDep,
    planner: PlannerDep,
    sender: SenderDep,
    posted: PostedDep,
) -> HTMLResponse:
    """Show the plan of what was typed, or what is wrong with it; nothing is changed."""
    return _show(request, caller, planner, _plan(posted, caller, records, planner, sender))


def _plan(
    posted: Posted, caller: Caller, records: RecordStore, planner: Planner, sender: Sender
) -> Shown:
    ids, values = posted.get(SUBMISSIONS), list_values(posted)
    try:
        wanted = _find_submissions(ids, caller, records)
        plan = planner.plan(
            [each.submission_id for each in wanted], read_schedule(posted), user=caller.name
        )
        runs = [(RUN, sender.choose_run_id(list_run_ids(each))) for each in wanted]
    except (ConfigurationError, RecordNotFound, PlansBusy) as error:
        return _explain(error, ids, values)
    hidden = [
        (SUBMISSIONS, " ".join(each.submission_id for each in wanted)),
        *runs,
        *((PREFIX + name, value) for name, value in values.items()),
    ]
    return Shown(ids=ids, values=values, plan=plan, hidden=hidden)


@router.post("/schedule/start", dependencies=CHANGES)
def start_schedule(
    request: Request,
    caller: CallerDep,
    records: RecordsDep,
    planner: PlannerDep,
    sender: SenderDep,
    posted: PostedDep,
) -> Response:
    """Schedule what was planned, once however often it is sent, and show the submission."""
    ids, values = posted.get(SUBMISSIONS), list_values(posted)
    try:
        wanted = _find_submissions(ids, caller, records)
        runs = _read_run_ids(posted, wanted)
        rows = _send_each(runs, read_schedule(posted), caller, sender, planner)
    except (ConfigurationError, RecordNotFound, PlansBusy) as error:
        return _show(request, caller, planner, _explain(error, ids, values))
    if not any(row.problem for row in rows):
        return _lead_on(request, runs)
    again = [("submission", row.submission_id) for row in rows if row.problem]
    return render(
        request,
        "scheduled.html",
        Frame(caller=caller, now=planner.clock(), area="submissions"),
        {
            "rows": rows,
            "started": sum(not row.problem for row in rows),
            "again": urlencode([*again, ("like", again[0][1])]),
        },
    )


def _send_each(
    runs: Mapping[str, str],
    fields: Mapping[str, JsonValue],
    caller: Caller,
    sender: Sender,
    planner: Planner,
) -> list[Scheduled]:
    """
    Schedule each submission by itself: what stops one stops no other, and sent again nothing twice.

    :raises ConfigurationError: If none of them was scheduled.
    """
    rows: list[Scheduled] = []
    first: ConfigurationError | TransientError | None = None
    for submission_id, run_id in runs.items():
        try:
            send_schedules(
                {submission_id: run_id}, fields, by=caller.name, sender=sender, planner=planner
            )
        except (ConfigurationError, TransientError) as error:
            first, told = first or error, str(error)
            if isinstance(error, TransientError) and not isinstance(error, PlansBusy):
                told = "a store does not answer right now; send this one again"
            rows.append(Scheduled(submission_id=submission_id, run_id=run_id, problem=told))
        else:
            rows.append(Scheduled(submission_id=submission_id, run_id=run_id))
    if first is not None and all(row.problem for row in rows):
        raise first
    return rows


def _lead_on(request: Request, runs: Mapping[str, str]) -> RedirectResponse:
    if len(runs) > 1:
        return lead(request, "/submissions")
    ((submission_id, run_id),) = runs.items()
    return lead(request, f"/submissions/{submission_id}?run={run_id}")


def _find_submissions(ids: str, caller: Caller, records: RecordStore) -> list[Submission]:
    """Return the submissions that were typed, each once."""
    wanted = list(dict.fromkeys(each for each in _BETWEEN.split(ids) if each))
    if not 1 <= len(wanted) <= MAX_PLANNED:
        raise ConfigurationError(
            f"{SUBMISSIONS}: give 1 to {MAX_PLANNED} accepted submissions, not {len(wanted)}"
        )
    if too_long := next((each for each in wanted if len(each) > MAX_ID), None):
        raise ConfigurationError(f"{SUBMISSIONS}: {shorten(too_long)} is not a submission's id")
    return [get_visible_submission(records, caller, each) for each in wanted]


def _read_run_ids(posted: Posted, wanted: Sequence[Submission]) -> dict[str, str]:
    """Return the run of each submission, as the plan has chosen it."""
    sent = set(posted.values.get(RUN, ()))
    runs = {}
    for each in wanted:
        possible = [
            build_run_id(each.submission_id, number)
            for number in range(2, MAX_RUNS + MORE_RUNS + 2)
        ]
        chosen = next((run_id for run_id in possible if run_id in sent), None)
        if chosen is None:
            raise ConfigurationError("run_id: the form is not whole; plan it again")
        runs[each.submission_id] = chosen
    return runs


def _explain(
    error: ConfigurationError | RecordNotFound | PlansBusy, ids: str, values: Mapping[str, str]
) -> Shown:
    if isinstance(error, RecordNotFound):
        return Shown(ids=ids, values=values, errors={SUBMISSIONS: str(error)}, status=404)
    status = next(
        (code for kind, code in ((RunTaken, 409), (PlansBusy, 429)) if isinstance(error, kind)),
        _INVALID,
    )
    errors = name_error(error, {*FORMS, SUBMISSIONS, "submission_id"})
    # An accepted submission is one of those that were typed.
    errors = {SUBMISSIONS if each == "submission_id" else each: why for each, why in errors.items()}
    return Shown(ids=ids, values=values, errors=errors, status=status)


def _show(request: Request, caller: Caller, planner: Planner, shown: Shown) -> HTMLResponse:
    frame = Frame(caller=caller, now=planner.clock(), area="submissions")
    outlook = planner.read_outlook()
    answer = render(
        request,
        "schedule.html",
        frame,
        {
            "ids": shown.ids,
            "fieldsets": build_fieldsets(shown.values, shown.errors, is_needed=True),
            "errors": shown.errors,
            "plan": shown.plan,
            "hidden": shown.hidden,
            "max_planned": MAX_PLANNED,
            "gpus": outlook.list_gpus() if outlook else (),
        },
    )
    answer.status_code = shown.status
    return answer
