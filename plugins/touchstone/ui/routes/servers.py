"""The on-prem servers, for admins."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends

from touchstone.ui.dependencies import RecordsDep, require_admin
from touchstone.ui.queries import show_record

router = APIRouter(dependencies=[Depends(require_admin)])


@router.get("/servers")
def list_servers(records: RecordsDep) -> dict[str, Any]:
    """Return all servers with their last heartbeat."""
    return {"servers": [show_record(record) for record in records.list_servers()]}
