"""The pages of the audit: of all acts for admins, and of those on a submission."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse

from touchstone.core.answers.audit import AuditLog
from touchstone.pages.rendering import Frame, render
from touchstone.ui.dependencies import CallerDep, ClockDep, RecordsDep, require_admin
from touchstone.ui.routes import audit as api
from touchstone.ui.routes.audit import AuditDep

router = APIRouter()

PAGE_SIZE = 100

Cursor = Annotated[str | None, Query(max_length=512)]


@router.get("/audit", dependencies=[Depends(require_admin)])
def show_audit(
    request: Request, caller: CallerDep, audit: AuditDep, clock: ClockDep, cursor: Cursor = None
) -> HTMLResponse:
    """Show the newest acts on anything, page by page."""
    log = api.list_acts(audit, limit=PAGE_SIZE, cursor=cursor)
    frame = Frame(caller=caller, now=clock(), area="audit")
    return _render(request, frame, log, cursor=cursor, submission_id=None)


@router.get("/submissions/{submission_id}/audit")
def show_audit_of_submission(
    request: Request,
    caller: CallerDep,
    records: RecordsDep,
    audit: AuditDep,
    clock: ClockDep,
    submission_id: str,
    cursor: Cursor = None,
) -> HTMLResponse:
    """Show the newest acts on a submission, page by page."""
    log = api.list_acts_on_submission(
        caller, records, audit, submission_id, limit=PAGE_SIZE, cursor=cursor
    )
    frame = Frame(caller=caller, now=clock(), area="submissions")
    return _render(request, frame, log, cursor=cursor, submission_id=submission_id)


def _render(
    request: Request, frame: Frame, log: AuditLog, *, cursor: str | None, submission_id: str | None
) -> HTMLResponse:
    return render(
        request,
        "audit.html",
        frame,
        {"log": log, "is_first": cursor is None, "submission_id": submission_id},
    )
