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
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any

from touchstone_agent.protocol.errors import PermanentError

BLOCK_BYTES = 1024**2


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
def open_below(root: Path, path: str) -> Iterator[IO[bytes]]:
    """
    Open a regular file below a folder for reading, following no link on the way.

    :param root: The folder; itself trusted.
    :param path: Relative path, ``/`` between parts.
    :raises FileNotFoundError: If there is none.
    :raises PermanentError: If it is not a plain file at a plain path.
    """
    *folders, name = split_path(path)
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in folders:
            inner = _open_at(handle, folder, path, os.O_DIRECTORY)
            os.close(handle)
            handle = inner
        fd = _open_at(handle, name, path, os.O_NONBLOCK)
    finally:
        os.close(handle)
    # Before it becomes a file object, which refuses folders in words of its own.
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise PermanentError(f"{path} is not a regular file")
    with os.fdopen(fd, "rb") as file:
        yield file


def _open_at(handle: int, name: str, path: str, flags: int) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=handle)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise PermanentError(f"{path} is not a plain file: {error.strerror}") from error


def read_below(root: Path, path: str, *, limit: int, offset: int = 0) -> bytes:
    """
    Read a part of a file below a folder.

    :param limit: Most bytes to read.
    :param offset: First byte.
    :raises FileNotFoundError: If there is none.
    :raises PermanentError: If it is not a plain file at a plain path.
    """
    with open_below(root, path) as file:
        file.seek(offset)
        return file.read(limit)


def size_below(root: Path, path: str) -> int:
    """Return the size of a file below a folder; 0 if it is absent or not a plain file."""
    try:
        with open_below(root, path) as file:
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
    """Remove a folder and all below it; gone already is success."""

    def unlock(function: Any, path: str, error: BaseException) -> None:
        # A container may have taken the write bit from its own folders.
        if isinstance(error, FileNotFoundError):
            return
        Path(path).parent.chmod(0o700)
        if Path(path).is_dir() and not Path(path).is_symlink():
            Path(path).chmod(0o700)
            shutil.rmtree(path, ignore_errors=True)
        else:
            function(path)

    def on_error(function: Any, path: str, info: Any) -> None:
        with suppress(OSError):  # tried again at the next housekeeping
            unlock(function, path, info[1])

    if folder.is_symlink() or not folder.exists():
        return
    shutil.rmtree(folder, onerror=on_error)
