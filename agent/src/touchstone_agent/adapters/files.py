"""
The attempts' folders.

What a container left in its output folder is not trusted: a link there could point at any file
of this machine, and a named pipe would hold its reader for ever. So nothing below an output
folder is opened by following names.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO
from uuid import uuid4

from touchstone_agent.protocol.errors import PermanentError

BLOCK_BYTES = 1024**2
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def split_path(path: str) -> tuple[str, ...]:
    """
    Split a relative path as a message carries it.

    :raises PermanentError: If it could lead out of the folder it is relative to.
    """
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        raise PermanentError(f"path {path!r} leads out of its folder")
    return parts


@contextmanager
def open_below(root: Path, path: str, *, is_owners: bool = False) -> Iterator[IO[bytes]]:
    """
    Open a regular file below a folder for reading, following no link on the way.

    :param root: The folder; itself trusted.
    :param path: Relative path, ``/`` between parts.
    :param is_owners: Whether it must belong to whom the folder belongs, or to this process's user,
        and have one name: where runner and trainer are two users, no trainer can have written it.
    :raises FileNotFoundError: If there is none.
    :raises PermanentError: If it is not a plain file at a plain path, or somebody else's.
    """
    *folders, name = split_path(path)
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    owner = os.fstat(handle).st_uid
    try:
        for folder in folders:
            inner = _open_at(handle, folder, path, os.O_DIRECTORY)
            os.close(handle)
            handle = inner
        fd = _open_at(handle, name, path, os.O_NONBLOCK)
    finally:
        os.close(handle)
    # Before it becomes a file object, which refuses folders in words of its own.
    facts = os.fstat(fd)
    if not stat.S_ISREG(facts.st_mode):
        os.close(fd)
        raise PermanentError(f"{path} is not a regular file")
    if is_owners and (facts.st_uid not in (owner, os.geteuid()) or facts.st_nlink != 1):
        os.close(fd)
        raise PermanentError(f"{path} was not written by the runner")
    with os.fdopen(fd, "rb") as file:
        yield file


def _open_at(handle: int, name: str, path: str, flags: int) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=handle)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise PermanentError(f"{path} is not a plain file: {error.strerror}") from error


def read_below(
    root: Path, path: str, *, limit: int, offset: int = 0, is_owners: bool = False
) -> bytes:
    """
    Read a part of a file below a folder.

    :param limit: Most bytes to read.
    :param offset: First byte.
    :param is_owners: As :func:`open_below` has it; likewise what is raised.
    """
    with open_below(root, path, is_owners=is_owners) as file:
        file.seek(offset)
        return file.read(limit)


def size_below(root: Path, path: str, *, is_owners: bool = False) -> int:
    """
    Return the size of a file below a folder; 0 if it is absent or not a plain file.

    :param is_owners: As :func:`open_below` has it.
    """
    try:
        with open_below(root, path, is_owners=is_owners) as file:
            return os.fstat(file.fileno()).st_size
    except (FileNotFoundError, PermanentError):
        return 0


def hash_file(file: IO[bytes]) -> tuple[str, int]:
    """Return the SHA-256 (hex) and the size of an open file, read from its beginning."""
    file.seek(0)
    digest = hashlib.sha256()
    size = 0
    while block := file.read(BLOCK_BYTES):
        digest.update(block)
        size += len(block)
    return digest.hexdigest(), size


def append_below(root: Path, name: str, data: bytes) -> None:
    """Append to a file directly below a folder; made if absent, left alone if it is no file."""
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(name, flags, 0o644, dir_fd=handle)
    except OSError as error:
        # A link, a folder, a pipe that nobody reads.
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            return
        raise
    finally:
        os.close(handle)
    with os.fdopen(fd, "wb") as file:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            file.write(data)


def make_attempt_folder(folder: Path) -> None:
    """Make an attempt's folder with ``in``, ``out`` and ``tmp``; those that exist are kept."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("in", "out", "tmp"):
        (folder / name).mkdir(mode=0o755, exist_ok=True)


def remove_tree(folder: Path) -> None:
    """
    Remove a folder and all below it; gone already is success.

    However deep folders are inside each other: each is moved up before it is emptied, so neither
    the length of a path nor the number of open files grows with them. What cannot be removed is
    left for the next housekeeping.
    """
    with suppress(OSError):
        handle = os.open(folder, _FOLDER_FLAGS)
        try:
            waiting = _empty_folder(handle, handle)
            while waiting:
                name = waiting.pop()
                with suppress(OSError):
                    inner = _open_own_folder(handle, name)
                    try:
                        waiting += _empty_folder(inner, handle)
                    finally:
                        os.close(inner)
                    os.rmdir(name, dir_fd=handle)
        finally:
            os.close(handle)
        folder.rmdir()


def remove_all_but(folder: Path, name: str) -> None:
    """Remove what is in a folder, but for one file."""
    with suppress(OSError):  # the folder itself is removed some time
        for path in folder.iterdir():
            # In this order: a link of another user may not be followed, not even to look.
            if not path.is_symlink() and path.is_dir():
                remove_tree(path)
            elif path.name != name:
                path.unlink(missing_ok=True)


def _empty_folder(handle: int, top: int) -> list[str]:
    """Remove the files of an open folder, move its folders up to the top; return their names."""
    with suppress(OSError):
        # A container may have taken the write bit from its own folders.
        os.fchmod(handle, 0o700)
    names = []
    with os.scandir(handle) as entries:
        for entry in entries:
            with suppress(OSError):
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.name, dir_fd=handle)
                elif handle == top:
                    names.append(entry.name)
                else:
                    name = uuid4().hex
                    os.rename(entry.name, name, src_dir_fd=handle, dst_dir_fd=top)
                    names.append(name)
    return names


def _open_own_folder(top: int, name: str) -> int:
    try:
        return os.open(name, _FOLDER_FLAGS, dir_fd=top)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=top)
        return os.open(name, _FOLDER_FLAGS, dir_fd=top)
