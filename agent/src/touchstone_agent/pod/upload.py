"""Stores what the attempt has left behind, as far as there are grants for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from enum import Enum
from typing import IO, Protocol

from touchstone_agent.adapters.files import hash_file, open_below
from touchstone_agent.adapters.transfer import GrantExpired
from touchstone_agent.pod.home import PodHome, locked, read_json, write_json
from touchstone_agent.pod.state import EXITED
from touchstone_agent.protocol.errors import ConfigurationError, PermanentError, TransientError
from touchstone_agent.protocol.facts import UploadedFile
from touchstone_agent.protocol.messages import Grant
from touchstone_agent.protocol.pods import PodUpload, PodUploadReport

AT_ONCE = 4


class Storer(Protocol):
    """What stores one file, as ``Transfer`` does."""

    def put(
        self,
        grant: Grant,
        file: IO[bytes],
        *,
        offset: int,
        size: int,
        is_cancelled: Callable[[], bool],
    ) -> bool:
        """Store a part of an open file; ``False`` if it was there already."""
        ...


class _Fate(Enum):
    UPLOADED = 1
    EXPIRED = 2
    LATER = 3


def upload(home: PodHome, wanted: PodUpload, transfer: Storer) -> PodUploadReport:
    """
    Store files of the verdict; what is stored already counts as stored.

    A caller that has lost its connection calls again: it waits for what is under way, and is then
    told of it, instead of sending everything a second time.

    :raises ConfigurationError: If there is no attempt.
    :raises TransientError: If it has not ended yet.
    """
    record = read_json(home.record_file)
    if record is None:
        raise ConfigurationError("there is no attempt in this pod whose files could be stored")
    if record["phase"] != EXITED:
        raise TransientError("the attempt has not ended yet")
    files = [UploadedFile.model_validate(file) for file in record.get("files", ())]
    known = {file.path: file for file in files}

    with locked(home.upload_lock, wait=True):
        memory = _Memory(home)

        def store(path: str) -> _Fate | str:
            if path not in known:
                return "is not in the verdict"
            if memory.has(known[path]):
                return _Fate.UPLOADED
            fate = _store(home, known[path], wanted.grants[path], transfer)
            if fate is _Fate.UPLOADED:
                memory.add(known[path])
            return fate

        with ThreadPoolExecutor(AT_ONCE) as pool:
            fates = dict(zip(wanted.grants, pool.map(store, wanted.grants), strict=True))
    return PodUploadReport(
        uploaded=tuple(path for path, fate in fates.items() if fate is _Fate.UPLOADED),
        expired=tuple(path for path, fate in fates.items() if fate is _Fate.EXPIRED),
        failed={path: fate for path, fate in fates.items() if isinstance(fate, str)},
    )


class _Memory:
    """What was stored by earlier calls, too; used by several threads."""

    def __init__(self, home: PodHome) -> None:
        self._file = home.uploaded_file
        self._lock = threading.Lock()
        self._digests: dict[str, str] = read_json(self._file) or {}

    def has(self, file: UploadedFile) -> bool:
        with self._lock:
            return self._digests.get(file.path) == file.sha256

    def add(self, file: UploadedFile) -> None:
        with self._lock:
            self._digests[file.path] = file.sha256
            with suppress(OSError):  # on a full disk it is stored once more
                write_json(self._file, self._digests)


def _store(home: PodHome, file: UploadedFile, grant: Grant, transfer: Storer) -> _Fate | str:
    try:
        with open_below(home.out, file.path) as source:
            if hash_file(source) != (file.sha256, file.size):
                return "is not the file that the verdict lists"
            transfer.put(grant, source, offset=0, size=file.size, is_cancelled=lambda: False)
    except GrantExpired:
        return _Fate.EXPIRED
    except TransientError:
        return _Fate.LATER
    except (FileNotFoundError, PermanentError) as error:
        return "is not there" if isinstance(error, FileNotFoundError) else str(error)
    return _Fate.UPLOADED
