"""Uploaded archives: received within bounds, and looked through before anyone unpacks them."""

from __future__ import annotations

import hashlib
import io
import tarfile
import tempfile
import zlib
from gzip import GzipFile
from pathlib import PurePosixPath
from types import TracebackType
from typing import IO, Self

from touchstone_agent.protocol.errors import ConfigurationError

MAX_MEMBERS = 10_000
MAX_UNPACKED_BYTES = 1024**3
_MAX_HEADER_BYTES = 1024**2
_IN_MEMORY_BYTES = 8 * 1024**2
_CHUNK_BYTES = 1024**2


class Upload:
    """Bytes as they arrive: counted, hashed, and on disk once they are many."""

    def __init__(self) -> None:
        # Closed by __exit__.
        self.file: IO[bytes] = tempfile.SpooledTemporaryFile(  # noqa: SIM115
            max_size=_IN_MEMORY_BYTES
        )
        self.size = 0
        self._hash = hashlib.sha256()

    def __enter__(self) -> Self:
        """Return the upload."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Forget the bytes."""
        self.file.close()

    @property
    def sha256(self) -> str:
        """Return the hex digest of what has arrived."""
        return self._hash.hexdigest()

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self.size += len(chunk)
        self._hash.update(chunk)
        self.file.write(chunk)

    def read(self) -> bytes:
        """Return all bytes."""
        self.file.seek(0)
        return self.file.read()


class _Bounded(io.RawIOBase):
    """
    The unpacked side of an archive, read no further than is reasonable.

    ``tarfile`` reads a header of whatever length the archive states into memory, so single
    reads are bounded too, not only their sum.
    """

    def __init__(self, packed: IO[bytes]) -> None:
        self._unpacked = GzipFile(fileobj=packed, mode="rb")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._unpacked.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or not 0 <= offset <= MAX_UNPACKED_BYTES:
            raise _unpacks_too_large()
        return self._unpacked.seek(offset)

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise ConfigurationError("content: a header inside the archive is too long")
        if self._unpacked.tell() + size > MAX_UNPACKED_BYTES:
            raise _unpacks_too_large()
        return self._unpacked.read(size)


def check_archive(file: IO[bytes]) -> None:
    """
    Refuse what is not a whole, harmless ``.tar.gz`` of files and folders.

    :param file: The packed bytes; read from their beginning.
    :raises ConfigurationError: Naming the member and what is wrong with it.
    """
    file.seek(0)
    unpacked = _Bounded(file)
    files = 0
    try:
        with tarfile.open(fileobj=unpacked, mode="r:") as archive:
            for number, member in enumerate(archive, start=1):
                if number > MAX_MEMBERS:
                    raise ConfigurationError(f"content: more than {MAX_MEMBERS} members")
                _check_member(member)
                files += member.isreg()
        # To the end of the stream, where gzip's own checksum is.
        while unpacked.read(_CHUNK_BYTES):
            pass
    except ConfigurationError:
        raise
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError) as error:
        raise ConfigurationError(f"content: not a readable .tar.gz: {error}") from error
    if not files:
        raise ConfigurationError("content: the archive holds no file")


def _check_member(member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or "\0" in member.name:
        raise ConfigurationError(f"content: {member.name!r} leads out of the archive")
    if member.issym() or member.islnk():
        raise ConfigurationError(f"content: {member.name!r} is a link; pack the file itself")
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise ConfigurationError(f"content: {member.name!r} is neither a file nor a folder")


def _unpacks_too_large() -> ConfigurationError:
    return ConfigurationError(f"content: unpacks to more than {MAX_UNPACKED_BYTES // 1024**2} MiB")
