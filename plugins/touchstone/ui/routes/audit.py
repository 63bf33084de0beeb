"""Who did what when, and from which door: of a submission, and of all for admins."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from touchstone.core.answers.audit import AuditAct, AuditLog
from touchstone.core.paging import Place
from touchstone.core.records.actions import Action
from touchstone.core.records.audit import AuditEntry, SubjectKind
from touchstone.stores.audit import AuditStore
from touchstone.ui.dependencies import CallerDep, RecordsDep, SettingsDep, require_admin
from touchstone.ui.queries import get_visible_submission

router = APIRouter()

Limit = Annotated[int, Query(ge=1, le=500)]
Cursor = Annotated[str | None, Query(max_length=512)]


async def get_audit(records: RecordsDep, settings: SettingsDep) -> AuditStore:
    """Return what reads the audit."""
    return AuditStore(records, settings.events_table)


AuditDep = Annotated[AuditStore, Depends(get_audit)]


@router.get("/audit", dependencies=[Depends(require_admin)])
def list_acts(audit: AuditDep, limit: Limit = 50, cursor: Cursor = None) -> AuditLog:
    """Return the newest acts on anything; ``next`` is the next page's cursor."""
    page = audit.list_newest(limit=limit, before=Place.from_cursor(cursor) if cursor else None)
    return AuditLog(
        acts=tuple(map(_show, page.entries)),
        unreadable=page.unreadable,
        next=page.next.to_cursor() if page.next else None,
    )


@router.get("/submissions/{submission_id}/audit")
def list_acts_on_submission(
    caller: CallerDep,
    records: RecordsDep,
    audit: AuditDep,
    submission_id: str,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> AuditLog:
    """Return the newest acts on a submission; on the last page also those from before the audit."""
    submission = get_visible_submission(records, caller, submission_id)
    page = audit.list_newest(
        limit=limit,
        before=Place.from_cursor(cursor) if cursor else None,
        kind=SubjectKind.SUBMISSION,
        name=submission_id,
    )
    acts = [_show(entry) for entry in page.entries]
    if page.next is None:
        earlier = audit.find_earlier(SubjectKind.SUBMISSION, submission_id, submission.actions)
        acts += [_show_earlier(submission_id, action) for action in earlier]
    return AuditLog(
        acts=tuple(acts),
        unreadable=page.unreadable,
        next=page.next.to_cursor() if page.next else None,
    )


def _show(entry: AuditEntry) -> AuditAct:
    return AuditAct(
        at=entry.at.isoformat(),
        by=entry.by,
        door=entry.door,
        kind=entry.kind,
        name=entry.name,
        action=entry.action,
    )


def _show_earlier(submission_id: str, action: Action) -> AuditAct:
    return AuditAct(
        at=action.at.isoformat(),
        by=action.by,
        door=None,
        kind=SubjectKind.SUBMISSION,
        name=submission_id,
        action=action.action,
    )
