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

from touchstone.confined.archives import Names, PackedFile, write_archive
from touchstone_agent.adapters.archives import MAX_MEMBERS, UnsafeArchive, read_members, show_name


def check(given: IO[bytes], *, max_bytes: int) -> None:
    """
    Read an archive to its end.

    :raises UnsafeArchive: If anything is wrong with it.
    """
    names, files = Names(), 0
    for member in read_members(given, max_bytes=max_bytes, max_members=MAX_MEMBERS):
        names.add(member.name, is_folder=member.is_folder)
        files += not member.is_folder
    if not files:
        raise UnsafeArchive("the archive holds no file; pack the module's files")


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


def answer(question: Mapping[str, object], given: IO[bytes]) -> dict[str, str]:
    """Return what is wrong with an archive, with the field's name in front; else nothing."""
    field = question["field"]
    try:
        if question["do"] == "check":
            check(given, max_bytes=_read_number(question, "max_bytes"))
        else:
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
