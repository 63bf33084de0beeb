"""The records of data sets: one for each version of each, which never changes its content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import BeforeValidator, JsonValue

from touchstone.core.data_sets import DataSet, build_label
from touchstone.core.records.stored import StoredRecord, Time

DATA_SETS: Final = "#data"
"""Part of the table of events in which data sets are; no event is called so."""


def _read_definition(stored: object) -> object:
    # A file has days of its own; JSON has texts for them.
    if not isinstance(stored, Mapping):
        return stored
    return DataSet.model_validate_json(json.dumps(stored))


class DataRecord(StoredRecord):
    """
    A version of a data set, on record.

    :param event: In which part of the table it is.
    :param entry: Its name and version.
    :param version: Counts the changes.
    :param definition: What its ``data.toml`` says.
    :param digest: Of ``data.toml`` and the data file.
    :param sha256: Digest of the archive, which is an object.
    :param size: The archive's size in bytes.
    :param data_bytes: The data file's size in bytes.
    :param added_at: When it was added.
    :param added_by: By whom.
    :param stored_at: When its archive was there; ``None`` while it may be missing.
    :param is_private: Whether its file is at the servers that hold it alone: there is no archive,
        and ``sha256`` and ``size`` say nothing.
    """

    event: str = DATA_SETS
    entry: str
    version: int = 0
    definition: Annotated[DataSet, BeforeValidator(_read_definition)]
    digest: str
    sha256: str
    size: int
    data_bytes: int
    added_at: Time
    added_by: str
    stored_at: Time | None = None
    is_private: bool = False

    @property
    def name(self) -> str:
        """Return the data set's name."""
        return self.definition.name

    @property
    def is_complete(self) -> bool:
        """Tell whether its archive is there, or none is to be."""
        return self.is_private or self.stored_at is not None


def build_entry_key(name: str, version: str) -> str:
    """Return the key of a data set's record: a name has no blank."""
    return build_label(name, version)


def show_data_set(record: DataRecord) -> dict[str, JsonValue]:
    """Return a data set as it is shown."""
    return {
        **record.definition.model_dump(mode="json"),
        "bars_per_year": record.definition.bars_per_year,
        "digest": record.digest,
        "archive_sha256": record.sha256,
        "archive_bytes": record.size,
        "data_bytes": record.data_bytes,
        "added_at": record.added_at.isoformat(),
        "added_by": record.added_by,
        "is_complete": record.is_complete,
        **({"is_private": True} if record.is_private else {}),
    }
