"""Uploads as they arrive: so many at once, so fast at least, and no larger than is taken."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Final, Self

from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from touchstone_agent.protocol.errors import ConfigurationError, TransientError

ARCHIVE_TYPES: Final = frozenset({"application/gzip", "application/x-gzip", "application/x-gtar"})

_MAX_DIGITS: Final = 18

MAX_UPLOADS: Final = 6
"""At once in one process of the api-server: each holds a file, and for a while a core."""
MAX_UPLOADS_OF_A_USER: Final = 2
RETRY_SECONDS: Final = 2

IDLE_SECONDS: Final = 8.0
"""An upload of which nothing comes for so long is ended."""
RECEIVE_SECONDS: Final = 600.0
"""An upload that has not arrived by then is ended."""


class UploadsBusy(TransientError):
    """There are as many uploads under way as there may be."""


class UploadTooSlow(ConfigurationError):
    """An upload did not arrive in the time that it may take."""


class UploadTooLarge(ConfigurationError):
    """An upload is larger than is taken."""


class UploadGate:
    """
    Counts who is uploading, from the first byte until the archive is looked through and stored.

    :param total: Most uploads at once.
    :param per_user: Most of them by one user.
    """

    def __init__(self, *, total: int = MAX_UPLOADS, per_user: int = MAX_UPLOADS_OF_A_USER) -> None:
        self._total = total
        self._per_user = per_user
        self._by_user: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def enter(self, user: str) -> Iterator[None]:
        """
        Be one of those who upload.

        :raises UploadsBusy: If there are enough of them.
        """
        with self._lock:
            if self._by_user[user] >= self._per_user:
                raise UploadsBusy(
                    f"content: {self._per_user} uploads of yours are under way; "
                    "send the next one when one of them has ended",
                    retry_after=RETRY_SECONDS,
                )
            if self._by_user.total() >= self._total:
                raise UploadsBusy(
                    f"content: {self._total} uploads are under way, which is all that are "
                    "taken at once; try again in a moment",
                    retry_after=RETRY_SECONDS,
                )
            self._by_user[user] += 1
        try:
            yield
        finally:
            with self._lock:
                self._by_user[user] -= 1
                # Not one entry for everybody who ever uploaded.
                self._by_user += Counter()


class Upload:
    """Bytes as they arrive: counted, hashed, and on disk."""

    def __init__(self) -> None:
        # Closed by __exit__.
        self.file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
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

    async def receive(
        self,
        chunks: AsyncIterator[bytes],
        *,
        limit: int,
        idle_seconds: float,
        seconds: float,
    ) -> None:
        """
        Take all bytes.

        :param limit: Most bytes.
        :param idle_seconds: How long nothing may come.
        :param seconds: How long all of it may take.
        :raises UploadTooSlow: If it takes longer.
        :raises UploadTooLarge: If there are more.
        """
        try:
            async with asyncio.timeout(seconds):
                while (chunk := await _find_next(chunks, idle_seconds)) is not None:
                    if self.size + len(chunk) > limit:
                        raise build_too_large(limit)
                    self.write(chunk)
        except TimeoutError as error:
            raise UploadTooSlow(f"content: was not sent within {seconds:g} s") from error

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self.size += len(chunk)
        self._hash.update(chunk)
        self.file.write(chunk)

    def read(self) -> bytes:
        """Return all bytes."""
        self.file.seek(0)
        return self.file.read()


def build_too_large(limit: int) -> UploadTooLarge:
    """Return the error for an upload that is larger than is taken."""
    return UploadTooLarge(f"content: the archive is larger than {limit / 1024**2:.0f} MiB")


def check_declared(request: Request, *, limit: int) -> None:
    """
    Refuse what is not declared as an archive, or as one that is too large, before it is sent.

    A page elsewhere can make a browser send forms and plain text along with the session's cookie,
    but not these types, unless we allowed its origin.
    """
    declared = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if declared not in ARCHIVE_TYPES:
        raise HTTPException(415, "send a .tar.gz, with Content-Type: application/gzip")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > _MAX_DIGITS or int(length) > limit):
        raise build_too_large(limit)


async def receive_body(request: Request, upload: Upload, *, limit: int) -> None:
    """
    Take the raw body of a request.

    :raises UploadTooSlow: If it takes too long, or the connection breaks.
    :raises UploadTooLarge: If there is more of it than is taken.
    """
    try:
        await upload.receive(
            aiter(request.stream()),
            limit=limit,
            idle_seconds=IDLE_SECONDS,
            seconds=RECEIVE_SECONDS,
        )
    except ClientDisconnect as error:
        # No client is left to read it, but it is no fault of the server's.
        raise UploadTooSlow("content: the connection broke before all of it came") from error


async def _find_next(chunks: AsyncIterator[bytes], seconds: float) -> bytes | None:
    try:
        async with asyncio.timeout(seconds):
            return await anext(chunks, None)
    except TimeoutError as error:
        raise UploadTooSlow(f"content: nothing was sent for {seconds:g} s") from error
