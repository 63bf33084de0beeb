"""
Looks through an archive, or packs it anew; asked and answering in JSON.

It is run by :mod:`touchstone.confined.archives`, with little time and memory: what it reads
is untrusted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import IO

from touchstone.confined.archives import (
    MAX_LISTED,
    MAX_LISTED_NAME,
    Names,
    PackedFile,
    write_archive,
)
from touchstone_agent.adapters.archives import MAX_MEMBERS, UnsafeArchive, read_members, show_name


def look_through(given: IO[bytes], *, max_bytes: int) -> dict[str, object]:
    """
    Read an archive to its end, and return what is in it.

    :raises UnsafeArchive: If anything is wrong with it.
    """
    names, count, size = Names(), 0, 0
    files: list[tuple[str, int]] = []
    for member in read_members(given, max_bytes=max_bytes, max_members=MAX_MEMBERS):
        names.add(member.name, is_folder=member.is_folder)
        if member.is_folder:
            continue
        count, size = count + 1, size + member.size
        if len(files) < MAX_LISTED:
            files.append((_shorten(member.name), member.size))
    if not count:
        raise UnsafeArchive("the archive holds no file; pack the module's files")
    return {"files": files, "count": count, "size": size}


def _shorten(name: str) -> str:
    # The end tells more than the beginning. What is no text in any encoding cannot be shown.
    shown = name if len(name) <= MAX_LISTED_NAME else f"...{name[3 - MAX_LISTED_NAME :]}"
    return shown.encode("utf-8", "replace").decode()


def repack(
    given: IO[bytes],
    target: IO[bytes],
    *,
    path: str,
    max_bytes: int,
    max_unpacked_bytes: int,
) -> None:
    """
    Pack the files below a folder of an archive anew.

    :raises UnsafeArchive: If anything is wrong with it, or if it has no files there.
    """
    names, files, left = Names(), [], max_bytes
    folder = PurePosixPath(path).parts
    for member in read_members(given, max_bytes=max_unpacked_bytes, max_members=MAX_MEMBERS):
        names.add(member.name, is_folder=member.is_folder)
        parts = PurePosixPath(member.name).parts
        if member.is_folder or parts[: len(folder)] != folder or len(parts) == len(folder):
            continue
        left -= member.size
        if left < 0:
            raise UnsafeArchive(
                f"has more than {max_bytes} bytes of files; leave out what the module does not need"
            )
        files.append(
            PackedFile(
                name="/".join(parts[len(folder) :]),
                body=b"".join(member.pieces),
                is_executable=member.is_executable,
            )
        )
    if not files:
        raise _NothingThere(f"no files in {show_name(path)}; name a folder that has some")
    write_archive(files, target)


class _NothingThere(UnsafeArchive):
    """The archive is well, and has nothing where it was looked."""


def _read_number(question: Mapping[str, object], name: str) -> int:
    return int(str(question[name]))


def answer(question: Mapping[str, object], given: IO[bytes]) -> dict[str, object]:
    """Return what is wrong with an archive, with the field's name in front; else what is in it."""
    field = question["field"]
    try:
        if question["do"] in {"check", "list"}:
            found = look_through(given, max_bytes=_read_number(question, "max_bytes"))
            return found if question["do"] == "list" else {}
        with os.fdopen(_read_number(question, "target"), "wb") as target:
            repack(
                given,
                target,
                path=str(question["path"]),
                max_bytes=_read_number(question, "max_bytes"),
                max_unpacked_bytes=_read_number(question, "max_unpacked_bytes"),
            )
    except _NothingThere as error:
        return {"refused": f"{field if question['path'] == '.' else 'path'}: {error}"}
    except UnsafeArchive as error:
        return {"refused": f"{field}: {error}"}
    except MemoryError:
        return {
            "refused": f"{field}: the archive takes too much memory to be read; pack "
            "plain files and folders"
        }
    return {}


if __name__ == "__main__":
    print(json.dumps(answer(json.loads(sys.argv[1]), sys.stdin.buffer)))
