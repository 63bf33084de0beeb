"""The records of data sets, in a part of the table of events."""

from __future__ import annotations

import logging
from collections.abc import Callable

from touchstone.core.data_sets import CANNED
from touchstone.core.records.data_sets import DATA_SETS, DataRecord, build_entry_key
from touchstone.core.records.stored import load_named
from touchstone.stores.records import Found, RecordStore, load_each
from touchstone.stores.tables import RecordExists, RecordNotFound

log = logging.getLogger(__name__)


class UnknownData(RecordNotFound):
    """There is no data set of that name and version."""


class DataStore:
    """
    Reads and writes the records of data sets.

    :param records: The way in and out, with its versions.
    :param table: Where they are.
    """

    def __init__(self, records: RecordStore, table: str) -> None:
        self._records = records
        self._table = table

    def list_data_sets(self) -> Found[DataRecord]:
        """Return all versions of all data sets, by name, the newest of each first."""
        stored = self._records.query_part(self._table, "event", DATA_SETS)
        found = load_each(DataRecord, {str(each["entry"]): each for each in stored})
        for error in found.unreadable.values():
            log.error("%s: left out of the list of data sets", error)
        newest = sorted(found.records, key=lambda each: (each.added_at, each.entry), reverse=True)
        records = tuple(sorted(newest, key=lambda each: each.name))
        return Found(records=records, unreadable=found.unreadable)

    def list_versions(self, name: str) -> tuple[DataRecord, ...]:
        """
        Return the versions of a data set, the newest first.

        :raises UnknownData: If there is none of that name.
        """
        if name == CANNED:
            raise UnknownData(
                f"data: {CANNED!r} is built into trainers and judge: it has no versions"
            )
        found = self.list_data_sets().records
        versions = tuple(each for each in found if each.name == name)
        if not versions:
            known = ", ".join(sorted({CANNED, *(each.name for each in found)}))
            raise UnknownData(f"data: there is no data set {name!r}; there are {known}")
        return versions

    def get_data_set(self, name: str, version: str) -> DataRecord:
        """
        Return a version of a data set.

        :raises UnknownData: If there is none of that name, or it has no such version.
        :raises RecordUnreadable: If its record makes no sense.
        """
        key = build_entry_key(name, version)
        stored = self._records.find_in_part(self._table, _key(key))
        if stored is not None:
            return load_named(DataRecord, key, stored)
        known = ", ".join(each.definition.version for each in self.list_versions(name))
        raise UnknownData(f"data: {name!r} has no version {version!r}; there are {known}")

    def change_data_set(
        self, new: DataRecord, decide: Callable[[DataRecord], DataRecord | None]
    ) -> DataRecord:
        """
        Write a data set down, or change what is there.

        :param new: What it is where it is not on record yet.
        :param decide: Gets what is there; as for
            :meth:`touchstone.stores.records.RecordStore.change_submission`.
        """
        try:
            self._records.create_in_part(self._table, "entry", new.dump())
        except RecordExists:
            return self._records.change_in_part(self._table, _key(new.entry), DataRecord, decide)
        return new


def _key(entry: str) -> dict[str, str]:
    return {"event": DATA_SETS, "entry": entry}
