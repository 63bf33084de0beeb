"""Several submissions cancelled or retracted at once: told first, then one by one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse

from touchstone.core.documents import shorten
from touchstone.core.schedule import MAX_ID
from touchstone.core.states import TASK_TERMINAL, IllegalMove, SubmissionStatus
from touchstone.pages.origin import require_same_origin
from touchstone.pages.posted import PostedDep
from touchstone.pages.rendering import Frame, render
from touchstone.stores.records import RecordStore
from touchstone.stores.tables import RecordNotFound
from touchstone.ui.dependencies import (
    Caller,
    CallerDep,
    CancelService,
    CancelServiceDep,
    ClockDep,
    RecordsDep,
    require_submitter,
)
from touchstone.ui.queries import get_visible_submission
from touchstone.ui.routes import submissions as api
from touchstone_agent.protocol.errors import ConfigurationError, TransientError

router = APIRouter()

CHANGES = [Depends(require_submitter), Depends(require_same_origin)]
MAX_ENDED: Final = 50
"""Submissions that are ended at once: as many as a page of the list has."""


class Act(StrEnum):
    """What may be done to several submissions at once."""

    CANCEL = "cancel"
    RETRACT = "retract"


@dataclass(frozen=True, kw_only=True)
class Row:
    """
    One submission of several.

    :param submission_id: Its id.
    :param status: Where it is; ``None`` if it is not there.
    :param open_tasks: Tasks that have not ended, or were ended.
    :param problem: Why nothing is done to it, or was; ``None`` for nothing.
    """

    submission_id: str
    status: SubmissionStatus | None = None
    open_tasks: int = 0
    problem: str | None = None


@router.get("/end", dependencies=[Depends(require_submitter)])
def tell(
    request: Request,
    caller: CallerDep,
    records: RecordsDep,
    clock: ClockDep,
    act: Act,
    submission: Annotated[list[str] | None, Query(max_length=MAX_ENDED)] = None,
) -> HTMLResponse:
    """Show what cancelling, or retracting, the ticked submissions would end; nothing is changed."""
    rows = [_foresee(records, caller, each) for each in _check(submission or [])]
    return _show(request, caller, clock, act, rows, is_done=False)


@router.post("/end", dependencies=CHANGES)
def end(
    request: Request,
    caller: CallerDep,
    records: RecordsDep,
    cancel_service: CancelServiceDep,
    clock: ClockDep,
    posted: PostedDep,
) -> HTMLResponse:
    """Cancel, or retract, each of some submissions, and tell of each what has become of it."""
    try:
        act = Act(posted.get("act"))
    except ValueError as error:
        raise ConfigurationError(f"act: give one of {', '.join(Act)}") from error
    wanted = _check(posted.values.get("submission", ()))
    rows = [_end(act, each, caller, records, cancel_service) for each in wanted]
    return _show(request, caller, clock, act, rows, is_done=True)


def _check(submissions: Iterable[str]) -> list[str]:
    ids = list(dict.fromkeys(each.strip() for each in submissions))
    if not 1 <= len(ids) <= MAX_ENDED:
        raise ConfigurationError(
            f"submission: tick 1 to {MAX_ENDED} submissions of the list, not {len(ids)}"
        )
    if too_long := next((each for each in ids if len(each) > MAX_ID), None):
        raise ConfigurationError(f"submission: {shorten(too_long)} is not a submission's id")
    return ids


def _foresee(records: RecordStore, caller: Caller, submission_id: str) -> Row:
    try:
        found = get_visible_submission(records, caller, submission_id)
    except RecordNotFound as error:
        return Row(submission_id=submission_id, problem=str(error))
    tasks = records.list_rows(submission_id).records
    return Row(
        submission_id=submission_id,
        status=found.status,
        open_tasks=sum(task.status not in TASK_TERMINAL for task in tasks),
    )


def _end(
    act: Act,
    submission_id: str,
    caller: Caller,
    records: RecordStore,
    cancel_service: CancelService,
) -> Row:
    try:
        if act is Act.CANCEL:
            ended = api.cancel_submission(
                caller, records, cancel_service, submission_id, api.CancelBody()
            )
        else:
            ended = api.retract_submission(
                caller, records, cancel_service, submission_id, api.RetractBody()
            )
    except (RecordNotFound, IllegalMove, ConfigurationError) as error:
        return Row(submission_id=submission_id, problem=str(error))
    except TransientError:
        # What the others came to is to be told all the same.
        return Row(
            submission_id=submission_id,
            problem="a store does not answer right now; send this one again",
        )
    found = records.find_submission(submission_id)
    return Row(
        submission_id=submission_id,
        status=found.status if found else None,
        open_tasks=len(ended.cancelled_tasks),
    )


def _show(
    request: Request,
    caller: Caller,
    clock: ClockDep,
    act: Act,
    rows: list[Row],
    *,
    is_done: bool,
) -> HTMLResponse:
    frame = Frame(caller=caller, now=clock(), area="submissions")
    able = [row for row in rows if row.problem is None]
    return render(
        request,
        "end.html",
        frame,
        {
            "act": act,
            "rows": rows,
            "able": able,
            "failed": len(rows) - len(able),
            "tasks": sum(row.open_tasks for row in able),
            "is_done": is_done,
        },
    )
