"""
Untrusted archives, read forward only.

``tarfile`` goes where a header sends it: back, to an end beyond the end, into headers as long as
they claim to be. Here one block is looked at after the other, each of them once; what a header
claims is checked before anything is done about it.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO, Final

from touchstone_agent.protocol.errors import PermanentError

MAX_MEMBERS: Final = 10_000
"""Files and folders of an archive: more is no module, and no branch of el-nigma. The control plane
takes no more, so that an agent meets no more."""
MAX_HEADER_BYTES: Final = 64 * 1024
"""Longest extended header: a long name, or what a file system notes beside a file."""
MAX_HEADERS_BYTES: Final = 16 * 1024**2
"""All extended headers of an archive together."""
MAX_HEADERS_IN_A_ROW: Final = 4
"""Extended headers of one member; each kind of them has a meaning once."""
MAX_PATH_BYTES: Final = 1024
MAX_NAME_BYTES: Final = 255
MAX_DEPTH: Final = 64

_BLOCK: Final = tarfile.BLOCKSIZE
_PIECE_BYTES: Final = 1024**2
_PAX = frozenset({tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE})
_EXTENDED = _PAX | {tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
_MEANS_A_FILE = ("path", "size", "linkpath", "GNU.sparse.")


class UnsafeArchive(PermanentError):
    """An archive would write outside its folder, or more than is allowed; never unpack it."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """
    A file or folder of an archive.

    :param name: Its path below the archive's root, ``/`` between parts.
    :param is_folder: Whether it is a folder.
    :param size: Bytes of the file.
    :param is_executable: Whether its owner may run it.
    :param pieces: The file's bytes, to be taken before the next member is.
    """

    name: str
    is_folder: bool
    size: int
    is_executable: bool
    pieces: Iterator[bytes]


@dataclass(kw_only=True)
class _Headers:
    """What extended headers have said of the member that follows them."""

    path: str | None = None
    size: int | None = None
    count: int = 0
    kinds: set[bytes] = field(default_factory=set)


def read_members(packed: IO[bytes], *, max_bytes: int, max_members: int) -> Iterator[Member]:
    """
    Return the members of a ``.tar.gz``: plain files and folders below its root, nothing else.

    :param packed: The archive; read from where it stands to its end, never back.
    :param max_bytes: Most bytes of all files together.
    :param max_members: Most members.
    :raises UnsafeArchive: If it is no whole archive, if a member is a link or a device or leads
        elsewhere, or if there is too much of anything; the message names the member.
    """
    return _Reader(packed, max_bytes=max_bytes, max_members=max_members).read()


class _Reader:
    def __init__(self, packed: IO[bytes], *, max_bytes: int, max_members: int) -> None:
        self._stream = gzip.GzipFile(fileobj=packed, mode="rb")
        self._max_bytes = max_bytes
        self._max_members = max_members
        self._bytes = 0
        self._members = 0
        self._header_bytes = 0

    def read(self) -> Iterator[Member]:
        while (block := self._read_exactly(_BLOCK)) != bytes(_BLOCK):
            headers = _Headers()
            while (info := self._parse(block)).type in _EXTENDED:
                self._read_extended(info, headers)
                block = self._read_exactly(_BLOCK)
            self._members += 1
            if self._members > self._max_members:
                raise UnsafeArchive(f"has more than {self._max_members} members; leave some out")
            yield from self._read_member(info, headers)
        self._read_rest()

    def _parse(self, block: bytes) -> tarfile.TarInfo:
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as error:
            raise UnsafeArchive(
                f"not a readable .tar.gz: {error}; pack it with tar -czf"
            ) from error

    def _read_exactly(self, size: int) -> bytes:
        data = self._read(size)
        if len(data) != size:
            raise UnsafeArchive("not a readable .tar.gz: it is cut off; send all of it")
        return data

    def _read(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except (EOFError, OSError, zlib.error) as error:
            raise UnsafeArchive(
                f"not a readable .tar.gz: {error}; pack it with tar -czf"
            ) from error

    def _read_rest(self) -> None:
        """Read on to the end, where gzip's own checksum is; some tools fill up with zeros."""
        left = MAX_HEADERS_BYTES
        while piece := self._read(min(left, _PIECE_BYTES) or 1):
            left -= len(piece)
            if left < 0:
                raise UnsafeArchive("has something behind its end; pack it anew with tar -czf")

    # --- extended headers ---------------------------------------------------------------------

    def _read_extended(self, info: tarfile.TarInfo, headers: _Headers) -> None:
        headers.count += 1
        if headers.count > MAX_HEADERS_IN_A_ROW or info.type in headers.kinds:
            raise UnsafeArchive("has a member with one header after the other")
        headers.kinds.add(info.type)
        self._header_bytes += max(0, info.size)
        if not 0 <= info.size <= MAX_HEADER_BYTES or self._header_bytes > MAX_HEADERS_BYTES:
            raise UnsafeArchive(f"has a header of {info.size} bytes, which is too long")
        data = self._read_exactly(_fill_up(info.size))[: info.size]
        if info.type == tarfile.GNUTYPE_LONGNAME:
            headers.path = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif info.type in _PAX or info.type == tarfile.XGLTYPE:
            self._take_pax(_parse_pax(data), headers, is_global=info.type == tarfile.XGLTYPE)

    def _take_pax(self, facts: dict[str, bytes], headers: _Headers, *, is_global: bool) -> None:
        if is_global and any(name.startswith(_MEANS_A_FILE) for name in facts):
            raise UnsafeArchive("has a header that gives all members one name or size")
        if any(name.startswith("GNU.sparse.") for name in facts):
            raise UnsafeArchive("has a file with holes; pack it without them")
        if is_global:
            return
        if "path" in facts:
            headers.path = facts["path"].decode("utf-8", "surrogateescape")
        if "size" in facts:
            size = facts["size"]
            if not size.isdigit() or len(size) > 19:
                raise UnsafeArchive("has a header with an impossible size")
            headers.size = int(size)

    # --- members ------------------------------------------------------------------------------

    def _read_member(self, info: tarfile.TarInfo, headers: _Headers) -> Iterator[Member]:
        name = headers.path if headers.path is not None else info.name
        size = headers.size if headers.size is not None else info.size
        is_folder = info.isdir()
        if info.issym() or info.islnk():
            raise UnsafeArchive(f"{show_name(name)} is a link; pack the file itself")
        if not (is_folder or info.isreg()) or info.type == tarfile.GNUTYPE_SPARSE:
            raise UnsafeArchive(f"{show_name(name)} is neither a file nor a folder; leave it out")
        is_root = is_folder and not PurePosixPath(name).parts
        path = "." if is_root else check_name(name)
        if size < 0:
            raise UnsafeArchive(f"{show_name(name)} claims to have {size} bytes")
        # A folder has no bytes, whatever it claims; other readers skip none there, either.
        size = 0 if is_folder else size
        self._bytes += size
        if self._bytes > self._max_bytes:
            raise UnsafeArchive(
                f"unpacks to more than {self._max_bytes} bytes; leave large files out"
            )
        pieces = self._read_pieces(size)
        yield Member(
            name=path,
            is_folder=is_folder,
            size=size,
            is_executable=bool(info.mode & 0o100),
            pieces=pieces,
        )
        for _ in pieces:
            pass  # whatever nobody wanted
        self._read_exactly(_fill_up(size) - size)

    def _read_pieces(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self._read_exactly(min(size, _PIECE_BYTES))
            size -= len(piece)
            yield piece


def check_name(name: str) -> str:
    """
    Return a member's name in its shortest form.

    :raises UnsafeArchive: If it leads out of the archive, or is none that can be used everywhere.
    """
    parts = PurePosixPath(name).parts
    if "\\" in name:
        # A tool of Windows' packed folders so, or somebody wants to leave by it.
        raise UnsafeArchive(
            f"{show_name(name)} has backslashes; pack it with / between folders, as tar does"
        )
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise UnsafeArchive(
            f"{show_name(name)} leads out of the archive; pack the folder from inside"
        )
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError as error:
        raise UnsafeArchive(f"{show_name(name)} is not a name in UTF-8; rename it") from error
    if not name.isprintable():
        raise UnsafeArchive(f"{show_name(name)} has characters that cannot be printed; rename it")
    if len(parts) > MAX_DEPTH or max(sizes) > MAX_NAME_BYTES or sum(sizes) > MAX_PATH_BYTES:
        raise UnsafeArchive(
            f"{show_name(name)} is too long a path: at most {MAX_PATH_BYTES} bytes in {MAX_DEPTH} "
            f"parts of {MAX_NAME_BYTES}; shorten it"
        )
    return "/".join(parts)


def _parse_pax(data: bytes) -> dict[str, bytes]:
    """Return the records of a pax header: ``<length> <name>=<value>`` each, with a line feed."""
    facts: dict[str, bytes] = {}
    place = 0
    while place < len(data) and data[place] != 0:
        digits, space, _ = data[place : place + 7].partition(b" ")
        if not space or not digits.isdigit():
            raise UnsafeArchive("has a header that cannot be read")
        end = place + int(digits)
        name, equals, value = data[place + len(digits) + 1 : end].partition(b"=")
        if end > len(data) or not name or not equals or not value.endswith(b"\n"):
            raise UnsafeArchive("has a header that cannot be read")
        facts[name.decode("utf-8", "replace")] = value[:-1]
        place = end
    return facts


def _fill_up(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def show_name(name: str) -> str:
    """Return a name as a message can carry it."""
    text = ascii(name)
    return text if len(text) <= 100 else f"{text[:100]}..."
