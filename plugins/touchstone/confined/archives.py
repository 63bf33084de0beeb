"""Archives that users upload: looked through, and packed anew, in a process of its own."""

from __future__ import annotations

import gzip
import io
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import IO, Final

from pydantic import TypeAdapter

from touchstone.confined.running import AskedTooMuch, Bounds, TookTooLong, run_program
from touchstone_agent.adapters.archives import UnsafeArchive, show_name
from touchstone_agent.protocol.errors import ConfigurationError, TransientError

UNPACKED_FACTOR: Final = 4
"""An archive may unpack to this many times what it may hold packed; of a repository that is
uploaded whole only one folder may be wanted."""

MAX_LISTED: Final = 100
MAX_LISTED_NAME: Final = 120
"""So many files of an archive are named to people, and so much of each name."""

_PROGRAM = "archive_program"
_SECONDS = 300
"""Only on a machine with far too much to do."""
_CPU_SECONDS = 20
_MEMORY_BYTES = 256 * 1024**2
_SLACK_BYTES = 16 * 1024**2


@dataclass(frozen=True, kw_only=True)
class PackedFile:
    """
    A file that goes into an archive.

    :param name: Its path in there.
    :param body: Its bytes.
    :param is_executable: Whether its owner may run it.
    """

    name: str
    body: bytes
    is_executable: bool = False


@dataclass(frozen=True, kw_only=True)
class Listing:
    """
    What is in an archive, for people.

    :param files: Path and size of each file, in the archive's order; the first ones only.
    :param count: How many files there are.
    :param size: Bytes of all of them.
    """

    files: tuple[tuple[str, int], ...]
    count: int
    size: int


class Names:
    """The names of an archive so far: each once, and no file is a folder as well."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def add(self, name: str, *, is_folder: bool = False) -> None:
        """
        Take one more.

        :raises UnsafeArchive: If it does not go with the others.
        """
        if name == ".":
            return
        parent = name.rpartition("/")[0]
        while parent and parent not in self._folders:
            self._add_folder(parent)
            parent = parent.rpartition("/")[0]
        if is_folder:
            self._add_folder(name)
            return
        if name in self._files or name in self._folders:
            raise UnsafeArchive(f"{show_name(name)} is in it twice; pack it once")
        self._files.add(name)

    def _add_folder(self, name: str) -> None:
        if name in self._files:
            raise UnsafeArchive(
                f"{show_name(name)} is a file and a folder in it; rename one of them"
            )
        self._folders.add(name)


def check_archive(file: IO[bytes], field: str, *, max_bytes: int) -> None:
    """
    Refuse what is not a whole, harmless ``.tar.gz`` of files and folders.

    :param file: The archive: a file of this machine.
    :param field: The user's name of it, with which every message begins.
    :param max_bytes: Most bytes of all its files together.
    :raises ConfigurationError: Naming the member and what is wrong with it.
    :raises TransientError: If this machine is too busy, or this process is to end.
    """
    _ask({"do": "check", "field": field, "max_bytes": max_bytes}, field, file, max_bytes=0)


def list_archive(archive: bytes, field: str, *, max_bytes: int) -> Listing:
    """
    Return what is in a ``.tar.gz``; nothing of it is unpacked to disk.

    :param archive: The archive.
    :param field: The user's name of it.
    :param max_bytes: Most bytes of all its files together.
    :raises ConfigurationError: As for :func:`check_archive`.
    :raises TransientError: As for :func:`check_archive`.
    """
    with tempfile.TemporaryFile() as given:
        given.write(archive)
        question = {"do": "list", "field": field, "max_bytes": max_bytes}
        return TypeAdapter(Listing).validate_python(_ask(question, field, given, max_bytes=0))


def repack(archive: bytes, field: str, *, path: str = ".", max_bytes: int) -> bytes:
    """
    Return the files of a ``.tar.gz`` as one whose bytes depend on nothing but them.

    :param archive: The archive.
    :param field: The user's name of it.
    :param path: Take only what is below this folder, which becomes the root.
    :param max_bytes: Largest sum of the files that are taken.
    :raises ConfigurationError: As for :func:`check_archive`, and if nothing is left.
    :raises TransientError: As for :func:`check_archive`.
    """
    question = {
        "do": "repack",
        "field": field,
        "path": path,
        "max_bytes": max_bytes,
        "max_unpacked_bytes": UNPACKED_FACTOR * max_bytes,
    }
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as target:
        given.write(archive)
        question["target"] = target.fileno()
        _ask(question, field, given, max_bytes=max_bytes, pass_fds=(target.fileno(),))
        target.seek(0)
        return target.read()


def write_archive(files: Iterable[PackedFile], target: IO[bytes]) -> None:
    """
    Pack files: equal files give equal bytes, whenever and wherever they are packed.

    :param files: The files, in any order.
    :param target: Where the ``.tar.gz`` goes.
    """
    with (
        gzip.GzipFile(filename="", fileobj=target, mode="wb", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as packed,
    ):
        for file in sorted(files, key=lambda item: item.name):
            info = tarfile.TarInfo(file.name)
            info.size, info.mode = len(file.body), 0o755 if file.is_executable else 0o644
            packed.addfile(info, io.BytesIO(file.body))


def _ask(
    question: Mapping[str, object],
    field: str,
    given: IO[bytes],
    *,
    max_bytes: int,
    pass_fds: Iterable[int] = (),
) -> dict[str, object]:
    bounds = Bounds(
        seconds=_SECONDS,
        cpu_seconds=_CPU_SECONDS,
        # What is packed anew is in memory once as files, and as much again while it is written.
        memory_bytes=_MEMORY_BYTES + 2 * max_bytes,
        file_bytes=max_bytes + _SLACK_BYTES,
    )
    try:
        answer = run_program(
            _PROGRAM, question, bounds=bounds, given=given, pass_fds=tuple(pass_fds)
        )
    except TookTooLong as error:
        # Its CPU time is bounded far below that: it is this machine that is busy.
        raise TransientError(f"{field}: looking through the archive {error}") from error
    except AskedTooMuch as error:
        raise ConfigurationError(
            f"{field}: the archive {error} while it was read: it is no ordinary one; "
            "pack plain files and folders"
        ) from error
    if answer.get("refused"):
        raise ConfigurationError(str(answer["refused"]))
    return answer
