"""Data sets for tests: folders with ``data.toml`` and a data file, and their archives."""

from __future__ import annotations

import hashlib
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from touchstone.client.packing import pack_data_set
from touchstone.core.records.data_sets import DataRecord
from touchstone.services.data_sets import Added, DataKeeper
from touchstone.settings import Settings
from touchstone.stores.objects import ObjectStore
from touchstone.stores.records import RecordStore

NOW = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)
BODY = b"time,close\n2017-10-01T00:00:00Z,1.18\n2017-12-01T00:00:00Z,1.19\n"
LIMIT = 64 * 1024**2


def build_text(
    *,
    name: str = "eurusd-hourly",
    version: str = "2018-02",
    file: str = "eurusd.csv",
    body: bytes = BODY,
    **changes: str,
) -> str:
    """Return a ``data.toml``; ``changes`` are the values of its other keys, as TOML."""
    top = {
        "title": '"EURUSD, hourly"',
        "sha256": f'"{hashlib.sha256(body).hexdigest()}"',
        "frequency": '"1h"',
        "calendar": '"24x5"',
        "time": '"time"',
    }
    lines = [f"{key} = {changes.get(key, value)}" for key, value in top.items()]
    return "\n".join(
        [
            "schema_version = 1",
            f'name = "{name}"',
            f'version = "{version}"',
            f'file = "{file}"',
            *lines,
            "[rows]",
            f"validation_from = {changes.get('validation_from', '2017-10-01')}",
            f"test_from = {changes.get('test_from', '2017-12-01')}",
            "[instruments.EURUSD]",
            'role = "traded"',
            'close = "close"',
            "[columns.close]",
            'instrument = "EURUSD"',
            f"available_at = {changes.get('available_at', chr(34) + 'bar' + chr(34))}",
            "",
        ]
    )


def write_folder(folder: Path, *, body: bytes = BODY, **changes: Any) -> Path:
    """Write a data set's folder, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.toml").write_text(build_text(body=body, **changes))
    (folder / changes.get("file", "eurusd.csv")).write_bytes(body)
    return folder


def pack(folder: Path, **changes: Any) -> bytes:
    """Return a data set's archive."""
    return pack_data_set(write_folder(folder, **changes), LIMIT)[1]


def add(
    records: RecordStore,
    objects: ObjectStore,
    settings: Settings,
    folder: Path,
    *,
    at: datetime = NOW,
    **changes: Any,
) -> DataRecord:
    """Add a data set, and return its record."""
    keeper = DataKeeper.build(records, objects, settings, lambda: at)
    return send(keeper, pack(folder, **changes)).record


def send(keeper: DataKeeper, archive: bytes, by: str = "admin") -> Added:
    """Add an archive."""
    # A file of this machine: a program is given its descriptor.
    with tempfile.TemporaryFile() as file:
        file.write(archive)
        return keeper.add(file, by=by)
