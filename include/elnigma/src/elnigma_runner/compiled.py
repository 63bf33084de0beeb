"""
What JAX has compiled, kept from one training of a submission to its next.

JAX reads and writes a folder of this attempt. Before the trainer begins, what an earlier training
has left is put there; after one that succeeded, all of it goes into one file of the output folder,
for the agent. Executables are code: nothing here may come from another submission, which the agent
sees to. The folder belongs to the trainer, so whatever is in it is looked at as its
user would, by descriptor, and only plain files with names of JAX's kind are taken.

Without it a training takes longer and gives the same. So nothing here ever ends one.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from elnigma_runner import outputs
from elnigma_runner.settings import Settings

MAX_ENTRIES = 2000
_MAX_LOOKED_AT = 10_000
_LOOK_SECONDS = 1.0
_FREE_SHARE = 4
"""Of what is free where the trainer has its temporary files, a fourth at most is for this."""
_MIB = 1024**2
_TAR_SLACK_BYTES = 4 * tarfile.RECORDSIZE
"""More than headers, padding and the end of an archive take."""
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,180}-[0-9a-f]{64}-cache")
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class CompiledCode:
    """
    The compiled code of one attempt.

    :param settings: How much of it may be kept, and the folders.
    :param work: Folder of this attempt in which the trainer may write.
    :param say: Tells the submitter a line.
    """

    def __init__(self, settings: Settings, work: Path, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._user = settings.user
        self._folder = work / "compiled"
        self._say = say
        self._most_bytes = settings.compiled_bytes
        self._given: frozenset[str] = frozenset()
        self._looked_at = float("-inf")

    def prepare(self) -> dict[str, str]:
        """Fill the folder with what is there, and return the environment that names it to JAX."""
        if not self._most_bytes:
            return {}
        try:
            with self._user.acting():
                self._folder.mkdir(mode=0o700)
                disk = os.statvfs(self._folder)
                room = disk.f_bavail * disk.f_frsize // _FREE_SHARE
        except OSError:
            room = 0
        self._most_bytes = min(self._most_bytes, room)
        if not self._most_bytes:
            return {}
        try:
            with self._user.acting():
                self._unpack(self._settings.inputs / outputs.COMPILED)
        except (OSError, tarfile.TarError, ValueError, EOFError) as error:
            self._say(f"what was compiled before cannot be used: {_describe(error)}")
        return {
            "JAX_COMPILATION_CACHE_DIR": str(self._folder),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            # They put their folder's path into the key, and choose by measuring.
            "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
        }

    def look(self) -> None:
        """Look whether it stays within its bounds; called often while the trainer runs."""
        now = time.monotonic()
        if not self._most_bytes or now - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        try:
            with self._user.acting(), _opened(self._folder) as handle:
                is_within = self._is_within(handle)
                if not is_within:
                    _empty(handle)
        except OSError:
            return  # the trainer has removed it
        if not is_within:
            self._say(
                "what this training compiles takes more than "
                f"{self._most_bytes / _MIB:g} MiB or {MAX_ENTRIES} files: nothing of it is kept"
            )
            self._most_bytes = 0

    def keep(self) -> None:
        """Leave all of it in the output folder, if this training has added anything."""
        if not self._most_bytes:
            return
        out = self._settings.out
        try:
            with self._user.acting(), _opened(self._folder) as handle:
                names = self._find_names(handle)
                size = outputs.measure(out)
            room = min(self._most_bytes, self._settings.output_bytes - size.bytes)
            if self._given.issuperset(names) or size.files >= outputs.MAX_FILES:
                return
            outputs.make_way(out, outputs.COMPILED)
            (out / outputs.COMPILED).unlink(missing_ok=True)
            # It is the runner's, and what is open stays open while the trainer's files are read.
            with (
                _created(out / outputs.COMPILED, mode=0o644) as file,
                self._user.acting(),
                _opened(self._folder) as handle,
            ):
                _pack(handle, names, file, room)
        except (OSError, tarfile.TarError, ValueError) as error:
            self._say(f"what was compiled is not kept: {_describe(error)}")

    def _unpack(self, archive: Path) -> None:
        descriptor = outputs.open_regular(archive)
        if descriptor is None:
            return
        left, given = self._most_bytes, set[str]()
        with os.fdopen(descriptor, "rb") as file, tarfile.open(fileobj=file, mode="r:") as members:
            for member in members:
                if not member.isreg() or member.size < 0 or not _NAME.fullmatch(member.name):
                    raise ValueError("it is not what a runner packs")
                left -= member.size
                source = members.extractfile(member)
                if source is None or left < 0 or len(given) >= MAX_ENTRIES:
                    break
                with _created(self._folder / member.name, mode=0o600) as target:
                    shutil.copyfileobj(source, target)
                given.add(member.name)
                self._given = frozenset(given)

    def _is_within(self, handle: int) -> bool:
        size = files = 0
        for _, facts in _list_entries(handle):
            files += 1
            size += max(facts.st_size, facts.st_blocks * 512)
        return files <= MAX_ENTRIES and size <= self._most_bytes

    def _find_names(self, handle: int) -> list[str]:
        """Return the files of JAX's kind, the newest first."""
        found = [
            (facts.st_mtime_ns, name)
            for name, facts in _list_entries(handle)
            if _NAME.fullmatch(name) and stat.S_ISREG(facts.st_mode)
        ]
        return [name for _, name in sorted(found, reverse=True)][:MAX_ENTRIES]


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    handle = os.open(folder, _FOLDER_FLAGS)
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def _created(path: Path, *, mode: int) -> Iterator[IO[bytes]]:
    """Make a file; of one that is not written whole nothing is left."""
    descriptor = os.open(path, _WRITE_FLAGS, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _empty(handle: int) -> None:
    for name, _ in list(_list_entries(handle)):
        with suppress(OSError):
            os.unlink(name, dir_fd=handle)
    # JAX warns of what it cannot write from now on, and goes on.
    os.fchmod(handle, 0)


def _list_entries(handle: int) -> Iterator[tuple[str, os.stat_result]]:
    """Return what is directly in an open folder, and no more of it than anybody needs."""
    with os.scandir(handle) as entries:
        for number, entry in enumerate(entries):
            if number >= _MAX_LOOKED_AT:
                return
            with suppress(OSError):
                yield entry.name, entry.stat(follow_symlinks=False)


def _pack(handle: int, names: list[str], target: IO[bytes], room: int) -> None:
    # Of the files themselves nothing but name and content goes into it.
    with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in names:
            left = room - archive.offset - _TAR_SLACK_BYTES
            content = _read(handle, name, left)
            if content is not None:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        if not archive.getmembers():
            raise ValueError("there is no room for it")


def _read(handle: int, name: str, most: int) -> bytes | None:
    """Return a plain file's content; ``None`` for anything else, or more than is wanted."""
    try:
        descriptor = os.open(name, _READ_FLAGS, dir_fd=handle)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1 or facts.st_size > most:
            return None
        content = file.read(facts.st_size + 1)
    # It may have been changed while it was read.
    return content if 0 < len(content) == facts.st_size else None


def _describe(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) else None
    return " ".join((text or str(error) or type(error).__name__).split())[:200]
