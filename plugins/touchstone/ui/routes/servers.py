"""The on-prem servers, for admins."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from pydantic import JsonValue

from touchstone.core.fleet import check_server_name
from touchstone.stores.tables import RecordNotFound
from touchstone.ui.dependencies import RecordsDep, require_admin

router = APIRouter(dependencies=[Depends(require_admin)])


@router.get("/servers")
def list_servers(records: RecordsDep) -> dict[str, JsonValue]:
    """Return all servers with their last heartbeat, as they are stored."""
    return {"servers": [dict(entry.stored) for entry in records.list_servers()]}


@router.get("/servers/{name}")
def show_server(records: RecordsDep, name: str) -> dict[str, JsonValue]:
    """
    Return one server with its last heartbeat.

    :raises ConfigurationError: If that cannot be a server's name.
    :raises RecordNotFound: If there is none of that name.
    """
    # The same table holds notes that are no servers.
    check_server_name(name)
    found = records.find_server_entry(name)
    if found is None:
        raise RecordNotFound(f"there is no server {name!r}")
    return {"server": dict(found.stored)}
