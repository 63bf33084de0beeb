"""Servers' records written as they are stored, whether or not they make sense."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from touchstone.stores.records import RecordStore


def store_server(records: RecordStore, fields: Mapping[str, Any]) -> None:
    """Put a server on record, as any version might have."""
    records._create(records._settings.servers_table, "server", dict(fields))


def write_fields(records: RecordStore, server: str, fields: Mapping[str, Any]) -> None:
    """Write fields into a record of the servers' table, as any version might have."""
    table = records._settings.servers_table
    records._change(table, {"server": server}, lambda _: dict(fields))


def read_fields(records: RecordStore, server: str) -> dict[str, Any]:
    """Return a record of the servers' table as it is stored; empty for none."""
    return records._find(records._settings.servers_table, {"server": server}) or {}
