"""Data sets brought to their records, and to the judge; see :mod:`touchstone.core.data_sets`."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Final, Self

from touchstone.confined.archives import UNPACKED_FACTOR
from touchstone.confined.data_sets import read_data_archive
from touchstone.core.data_sets import PinnedData, parse_data_set
from touchstone.core.names import build_data_key
from touchstone.core.records.data_sets import DataRecord, build_entry_key
from touchstone.settings import Settings
from touchstone.stores.data_sets import DataStore
from touchstone.stores.objects import ObjectCorrupt, ObjectNotFound, ObjectStore, ObjectTooLarge
from touchstone.stores.records import RecordStore
from touchstone_agent.protocol.errors import ConfigurationError, PermanentError

log = logging.getLogger(__name__)

_PART: Final = "part-"
"""What the folder of a data set begins with that is not unpacked to its end."""


class DataUnusable(PermanentError):
    """A data set cannot be had, or is not what is on record; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Added:
    """
    What came of adding a data set.

    :param record: The data set, as it is now.
    :param is_changed: Whether anything was written.
    """

    record: DataRecord
    is_changed: bool


class DataKeeper:
    """
    Writes data sets down.

    :param store: Their records.
    :param objects: Where their archives go.
    :param settings: Name of the bucket, and how large they may be.
    :param clock: The time, UTC.
    """

    def __init__(
        self,
        store: DataStore,
        objects: ObjectStore,
        settings: Settings,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._objects = objects
        self._settings = settings
        self._clock = clock

    @classmethod
    def build(
        cls,
        records: RecordStore,
        objects: ObjectStore,
        settings: Settings,
        clock: Callable[[], datetime],
    ) -> Self:
        """Return one that keeps the installation's data sets."""
        return cls(DataStore(records, settings.events_table), objects, settings, clock)

    @property
    def store(self) -> DataStore:
        """Return where the records of data sets are."""
        return self._store

    def add(self, archive: IO[bytes], *, by: str) -> Added:
        """
        Put a data set on record, then its archive under its digest; the same again changes nothing.

        A process that dies in between leaves a record without ``stored_at``: nothing uses that data
        set, and adding it again goes on.

        :param archive: ``data.toml`` and the data file, packed: a file of this machine.
        :param by: Who adds it.
        :raises ConfigurationError: If anything is wrong with it, or its name and version are taken
            by another content.
        """
        limit = UNPACKED_FACTOR * self._settings.data_bytes
        found = read_data_archive(archive, max_bytes=limit)
        archive.seek(0)
        body = archive.read()
        definition, now = parse_data_set(found.text), self._clock()
        new = DataRecord(
            entry=build_entry_key(definition.name, definition.version),
            definition=definition,
            digest=found.digest,
            sha256=hashlib.sha256(body).hexdigest(),
            size=len(body),
            data_bytes=found.data_bytes,
            added_at=now,
            added_by=by,
        )

        def take(known: DataRecord) -> DataRecord | None:
            if known.is_private:
                raise ConfigurationError(
                    f"data: {known.entry} is there as private, so its file is taken by nobody; "
                    "give this one another version"
                )
            if known.digest != new.digest:
                raise ConfigurationError(
                    f"version: {known.entry} is there already with another content, of digest "
                    f"{known.digest}, added by {known.added_by} at {known.added_at:%Y-%m-%d %H:%M} "
                    f"UTC; this one has {new.digest}: give it another version"
                )
            if known.is_complete or known.sha256 == new.sha256:
                return None
            # Packed by another library: nothing uses what was never stored.
            return known.change(sha256=new.sha256, size=new.size)

        before = self._store.change_data_set(new, take)
        if before.sha256 != new.sha256:
            # The same content, packed by another library: what is stored stays.
            return Added(record=before, is_changed=False)
        # Also of what was stored once: an archive that was lost is there again.
        is_stored = self._objects.put_new(
            self._settings.content_bucket,
            build_data_key(new.sha256),
            body,
            content_type="application/gzip",
        )
        if before.is_complete:
            return Added(record=before, is_changed=is_stored)

        def complete(known: DataRecord) -> DataRecord | None:
            if known.is_complete:
                return None
            # Also if somebody else has packed it otherwise meanwhile: this archive is there.
            return known.change(sha256=new.sha256, size=new.size, stored_at=self._clock())

        return Added(record=self._store.change_data_set(new, complete), is_changed=True)

    def add_private(self, text: str, digest: str, data_bytes: int, *, by: str) -> Added:
        """
        Put a data set on record whose file stays at the servers that hold it.

        :param text: Its ``data.toml``.
        :param digest: Of ``data.toml`` and the data file, by the word of somebody who has both.
        :param data_bytes: The data file's size in bytes, likewise.
        :param by: Who adds it.
        :raises ConfigurationError: If ``data.toml`` is wrong, or its name and version are taken.
        """
        definition, is_changed = parse_data_set(text), True
        new = DataRecord(
            entry=build_entry_key(definition.name, definition.version),
            definition=definition,
            digest=digest,
            sha256="",
            size=0,
            data_bytes=data_bytes,
            added_at=self._clock(),
            added_by=by,
            is_private=True,
        )

        def take(known: DataRecord) -> DataRecord | None:
            nonlocal is_changed
            is_changed = False
            if not known.is_private:
                raise ConfigurationError(
                    f"data: {known.entry} is there already, and its file with it; what was shared "
                    "cannot become private: give this one another version"
                )
            if known.digest != digest:
                raise ConfigurationError(
                    f"version: {known.entry} is there already with another content, of digest "
                    f"{known.digest}; this one has {digest}: give it another version"
                )
            return None

        record = self._store.change_data_set(new, take)
        return Added(record=record, is_changed=is_changed)


def fetch_data(objects: ObjectStore, settings: Settings, data: PinnedData | None) -> Path | None:
    """
    Return the folder with the two files of a data set, which is kept for the next training.

    :param data: The data set; ``None`` for the built-in one, which the judge has itself.
    :return: ``None`` for the built-in one.
    :raises DataUnusable: If the data set is not there, or not what is on record.
    :raises TransientError: If the store cannot be used now.
    """
    if data is None:
        return None
    if data.is_private:
        raise DataUnusable(f"the data set {data.label} is private: it is at its servers alone")
    try:
        root = _find_cache(settings)
        folder = root / data.digest
        if not folder.is_dir():
            _unpack(objects, settings, data, root, folder)
    except (ObjectNotFound, ObjectCorrupt, ObjectTooLarge, ConfigurationError) as error:
        raise DataUnusable(f"the data set {data.label}: {error}") from error
    except OSError as error:
        raise DataUnusable(
            f"the data set {data.label} cannot be unpacked: {error.strerror or error} "
            "(setting TOUCHSTONE_DATA_CACHE)"
        ) from error
    return folder


def _unpack(
    objects: ObjectStore, settings: Settings, data: PinnedData, root: Path, folder: Path
) -> None:
    with tempfile.TemporaryDirectory(dir=root, prefix=_PART) as name:
        archive, unpacked = Path(name) / "data.tar.gz", Path(name) / "data"
        objects.fetch(
            settings.content_bucket,
            build_data_key(data.sha256),
            archive,
            sha256=data.sha256,
            size=data.size,
        )
        unpacked.mkdir(mode=0o755)
        # What is on record was taken by the limit of its day.
        limit = UNPACKED_FACTOR * max(settings.data_bytes, data.size)
        with archive.open("rb") as file:
            found = read_data_archive(file, max_bytes=limit, folder=unpacked)
        if found.digest != data.digest:
            raise ObjectCorrupt(f"its archive has the digest {found.digest}, not {data.digest}")
        try:
            unpacked.rename(folder)
        except OSError:
            # Another training of it was judged at the same time: its files are the same.
            if not folder.is_dir():
                raise


def _find_cache(settings: Settings) -> Path:
    """Return the folder of unpacked data sets, which is this user's alone."""
    root = settings.data_cache
    if root is None:
        root = Path(tempfile.gettempdir()) / f"touchstone-data-{os.getuid()}"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = root.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o022:
        raise DataUnusable(
            f"{root} is not a folder that this user alone may write to; name another in "
            "TOUCHSTONE_DATA_CACHE"
        )
    return root
