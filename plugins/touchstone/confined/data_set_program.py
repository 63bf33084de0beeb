"""
Looks through the archive of a data set, or unpacks it; asked and answering in JSON.

It is run by :mod:`touchstone.confined.data_sets`, with little time and memory: what it reads is
untrusted.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from touchstone.core.data_sets import FILE, MAX_TEXT_BYTES, parse_data_set
from touchstone_agent.adapters.archives import Member, UnsafeArchive, read_members, show_name
from touchstone_agent.protocol.errors import ConfigurationError

_FILES = 2


def read(given: IO[bytes], *, max_bytes: int, folder: Path | None) -> dict[str, object]:
    """
    Read an archive to its end.

    :param given: The archive: ``data.toml``, then the data file, and nothing else.
    :param max_bytes: Most bytes of both together.
    :param folder: Where they are unpacked, an empty folder; ``None`` for nowhere.
    :return: The text of ``data.toml``, and what was found of the data file.
    :raises UnsafeArchive: If anything is wrong with the archive.
    :raises ConfigurationError: If what ``data.toml`` says is not so.
    """
    members = read_members(given, max_bytes=max_bytes, max_members=_FILES)
    first = _take(members, FILE)
    if first.size > MAX_TEXT_BYTES:
        raise UnsafeArchive(f"{FILE} has more than {MAX_TEXT_BYTES} bytes; leave columns out")
    text = b"".join(first.pieces)
    try:
        described = parse_data_set(text.decode())
    except UnicodeDecodeError as error:
        raise UnsafeArchive(f"{FILE} is not UTF-8 text; save it as such") from error
    if folder is not None:
        _write(folder / FILE, iter([text]))
    second = _take(members, described.file)
    digest, own = hashlib.sha256(text), hashlib.sha256()

    def look() -> Iterator[bytes]:
        for piece in second.pieces:
            digest.update(piece)
            own.update(piece)
            yield piece

    if folder is None:
        for _ in look():
            pass
    else:
        _write(folder / described.file, look())
    for extra in members:
        raise UnsafeArchive(f"{show_name(extra.name)} is in it beside the two files; leave it out")
    if own.hexdigest() != described.sha256:
        raise ConfigurationError(
            f"{FILE}: sha256: {described.file} has {own.hexdigest()}, and the file says "
            f"{described.sha256}; correct one of them"
        )
    return {"text": text.decode(), "data_bytes": second.size, "digest": digest.hexdigest()}


def _take(members: Iterator[Member], name: str) -> Member:
    member = next(members, None)
    if member is None or member.is_folder or member.name != name:
        found = "its end" if member is None else show_name(member.name)
        raise UnsafeArchive(
            f"has {found} where {show_name(name)} should be; `touchstone data add DIR` packs it"
        )
    return member


def _write(path: Path, pieces: Iterator[bytes]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o644), "wb") as file:
        for piece in pieces:
            file.write(piece)


def answer(question: Mapping[str, object], given: IO[bytes]) -> dict[str, object]:
    """Return what was found, or what is wrong, with the field's name in front."""
    field, folder = question["field"], question["folder"]
    try:
        return read(
            given,
            max_bytes=int(str(question["max_bytes"])),
            folder=None if folder is None else Path(str(folder)),
        )
    except UnsafeArchive as error:
        return {"refused": f"{field}: the archive {error}"}
    except ConfigurationError as error:
        return {"refused": str(error)}
    except MemoryError:
        return {"refused": f"{field}: the archive takes too much memory to be read"}


if __name__ == "__main__":
    print(json.dumps(answer(json.loads(sys.argv[1]), sys.stdin.buffer)))
