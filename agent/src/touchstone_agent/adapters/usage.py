"""
What an attempt has on the disk, counted by somebody who does not trust it.

Names are never followed: each folder is opened below the one that it was found in. What was
unlinked and is still open or mapped takes the disk as well, and is found by the processes that
hold it, where this process may look at them. Known gap: a file that is only on its way through a
socket is held by nobody.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from touchstone_agent.adapters.processes import list_tree
from touchstone_agent.core.limits import MAX_DEPTH, MAX_HANDLES, Allowance, Usage

_BLOCK_BYTES = 512
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def measure_folder(folder: Path, allowed: Allowance) -> Usage:
    """
    Count what is in a folder, and stop at the first limit that is exceeded.

    A file counts with the blocks that it has, or with its size if that is more: a sparse file is
    not overlooked, nor are thousands of tiny ones, nor space set aside beyond a file's end.

    :param folder: The folder; gone counts as empty.
    :param allowed: Beyond this counting is of no use.
    """
    counter = _Counter(allowed)
    try:
        handle = os.open(folder, _FOLDER_FLAGS)
    except FileNotFoundError:
        return Usage()
    try:
        counter.look_into(handle, depth=0)
    finally:
        os.close(handle)
    return counter.usage


class _Counter:
    def __init__(self, allowed: Allowance) -> None:
        self._allowed = allowed
        self._linked: set[int] = set()
        self._bytes = self._files = self._depth = 0
        self._closed: str | None = None

    @property
    def usage(self) -> Usage:
        return Usage(bytes=self._bytes, files=self._files, depth=self._depth, closed=self._closed)

    def look_into(self, handle: int, *, depth: int) -> bool:
        """Count what is in an open folder and below; tell whether to go on."""
        with os.scandir(handle) as entries:
            for entry in entries:
                try:
                    facts = entry.stat(follow_symlinks=False)
                except OSError:
                    continue  # gone meanwhile
                self._count(facts)
                if self._is_over():
                    return False
                if stat.S_ISDIR(facts.st_mode) and not self._descend(handle, entry.name, depth + 1):
                    return False
        return True

    def _descend(self, handle: int, name: str, depth: int) -> bool:
        self._depth = max(self._depth, depth)
        if depth > MAX_DEPTH:
            return False
        try:
            inner = os.open(name, _FOLDER_FLAGS, dir_fd=handle)
        except PermissionError:
            self._closed = name[:100]
            return False
        except OSError:
            return True  # gone, or another thing of that name by now: the next look sees it
        try:
            return self.look_into(inner, depth=depth)
        finally:
            os.close(inner)

    def _count(self, facts: os.stat_result) -> None:
        self._files += 1
        is_folder = stat.S_ISDIR(facts.st_mode)
        if facts.st_nlink > 1 and not is_folder:
            if facts.st_ino in self._linked:
                return
            self._linked.add(facts.st_ino)
        size = 0 if is_folder else facts.st_size
        self._bytes += max(facts.st_blocks * _BLOCK_BYTES, size)

    def _is_over(self) -> bool:
        return self._bytes > self._allowed.bytes or self._files > self._allowed.files


def measure_unlinked(main_pid: int, folder: Path) -> Usage:
    """
    Count what processes hold of files without a name, on the disk that a folder is on.

    :param main_pid: The attempt's first process; all below it are looked at.
    :param folder: A folder on that disk.
    """
    try:
        device = folder.stat().st_dev
    except OSError:
        return Usage()
    held: dict[int, int] = {}
    handles = 0
    for pid in list_tree(main_pid):
        for path in _list_handles(pid):
            handles += 1
            if handles > MAX_HANDLES:
                return Usage(bytes=sum(held.values()), files=len(held), handles=handles)
            if path is None:
                continue
            with suppress(OSError):
                facts = os.stat(path)  # noqa: PTH116 - as few steps as there can be, 200,000 times
                if facts.st_nlink == 0 and facts.st_dev == device and stat.S_ISREG(facts.st_mode):
                    held[facts.st_ino] = facts.st_blocks * _BLOCK_BYTES
    return Usage(bytes=sum(held.values()), files=len(held), handles=handles)


def _list_handles(pid: int) -> Iterator[str | None]:
    """
    Return the paths of a process's open files, and of its mappings of files without a name.

    :return: ``None`` for a mapping that counts, but need not be looked at.
    """
    with suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            yield entry.path
    with suppress(OSError), open(f"/proc/{pid}/maps", "rb") as maps:  # noqa: PTH123 - likewise
        for line in maps:
            # The kernel's word for it; a file may be called so, which costs one look.
            is_nameless = line.endswith(b"(deleted)\n")
            place = line.split(b" ", 1)[0].decode("ascii") if is_nameless else ""
            yield f"/proc/{pid}/map_files/{place}" if is_nameless else None


def is_at_home(pid: int, folder: Path, inside: str) -> bool:
    """
    Tell whether a process is that of a container which has a folder of ours.

    A process id that an engine tells is that of its own machine; here it may be another's.

    :param inside: Where the container has the folder.
    """
    try:
        there = os.stat(f"/proc/{pid}/root{inside}")  # noqa: PTH116
        here = folder.stat()
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
