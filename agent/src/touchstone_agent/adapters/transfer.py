"""
Files by presigned URL: fetched, checked, unpacked, stored.

Every error is translated without its text: the texts of HTTP libraries carry the URL, and a
presigned URL is a secret until it expires.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import urllib3

from touchstone_agent.adapters.archives import MAX_MEMBERS, Member, UnsafeArchive, read_members
from touchstone_agent.adapters.files import BLOCK_BYTES, split_path
from touchstone_agent.adapters.pools import HttpPools
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.protocol.errors import PermanentError, TransientError
from touchstone_agent.protocol.messages import Grant

TIMEOUT = urllib3.Timeout(connect=10, read=60)
TRIES = 5
BACKOFF = Backoff(first_seconds=0.5, cap_seconds=8)
MAX_ANSWER_BYTES = 64 * 1024
"""What a store says of an upload: nothing, or an error in a few lines."""


class GrantExpired(TransientError):
    """The store does not honour a grant (any more): ask for another."""


class TransferCancelled(TransientError):
    """The attempt is to end; the transfer was left unfinished."""


class _Again(Exception):
    """A try failed in a way that may not repeat itself."""


class Transfer:
    """
    Moves files; safe to use from several threads.

    :param backoff: Waits between tries.
    :param tries: Tries before it is left to the caller to ask for another grant.
    :param sleep: Replaced in tests.
    """

    def __init__(
        self,
        *,
        backoff: Backoff = BACKOFF,
        tries: int = TRIES,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._backoff = backoff
        self._tries = tries
        self._sleep = sleep
        self._pools = HttpPools()

    def fetch(
        self,
        grant: Grant,
        target: Path,
        *,
        sha256: str,
        size: int,
        is_cancelled: Callable[[], bool],
    ) -> None:
        """
        Fetch a file and check it; ``target`` appears only when it is right.

        :param sha256: Hex digest it must have.
        :param size: Size it must have.
        :param is_cancelled: Asked between blocks.
        :raises GrantExpired: If the store refuses the grant.
        :raises TransientError: If the store cannot be reached, for long enough.
        :raises PermanentError: If the bytes are not those that were promised.
        """
        part = target.with_name(f"{target.name}.part")

        def once() -> None:
            response = self._open(grant, None, 0)
            try:
                _check_status(response)
                _receive(response, part, sha256, size, is_cancelled)
            finally:
                response.release_conn() if response.closed else response.close()

        self._try(once, is_cancelled)
        part.replace(target)

    def put(
        self,
        grant: Grant,
        file: IO[bytes],
        *,
        offset: int,
        size: int,
        is_cancelled: Callable[[], bool],
    ) -> bool:
        """
        Store a part of an open file with exactly the granted headers.

        :param offset: First byte.
        :param size: Bytes.
        :param is_cancelled: Asked between blocks.
        :return: ``False`` if the object was there already: this attempt is the only one that may
            write it, so an earlier try of this same upload had succeeded.
        :raises GrantExpired: If the store refuses the grant.
        :raises TransientError: If the store cannot be reached, for long enough.
        """

        def once() -> bool:
            file.seek(offset)
            response = self._open(grant, _Slice(file, size, is_cancelled), size)
            try:
                if response.status == 412:
                    return False
                _check_status(response)
                return True
            finally:
                _finish(response)

        stored: bool = self._try(once, is_cancelled)
        return stored

    def _try(self, once: Callable[[], Any], is_cancelled: Callable[[], bool]) -> Any:
        for failures in range(1, self._tries + 1):
            if is_cancelled():
                raise TransferCancelled("transfer cancelled")
            try:
                return once()
            except _Again as error:
                problem = str(error)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                problem = type(error).__name__
            if failures < self._tries:
                self._sleep(self._backoff.after(failures))
        # Not chained: the text of the cause carries the URL.
        raise TransientError(f"the store could not be used {self._tries} times: {problem}")

    def _open(self, grant: Grant, body: Any, size: int) -> urllib3.BaseHTTPResponse:
        headers = dict(grant.headers)
        if grant.method == "PUT" and not any(h.lower() == "content-length" for h in headers):
            headers["Content-Length"] = str(size)
        return self._find_pool(grant.url).request(
            grant.method,
            grant.url,
            body=body,
            headers=headers,
            preload_content=False,
            redirect=False,
            retries=False,
            timeout=TIMEOUT,
        )

    def _find_pool(self, url: str) -> urllib3.PoolManager:
        return self._pools.find(url)


class _Slice:
    """A part of a file as a request body."""

    def __init__(self, file: IO[bytes], size: int, is_cancelled: Callable[[], bool]) -> None:
        self._file = file
        self._left = size
        self._is_cancelled = is_cancelled

    def read(self, count: int = -1) -> bytes:
        if self._is_cancelled():
            raise TransferCancelled("transfer cancelled")
        block = self._file.read(self._left if count < 0 else min(count, self._left))
        self._left -= len(block)
        return block


def _finish(response: urllib3.BaseHTTPResponse) -> None:
    """Keep the connection for another request, unless its answer is longer than one should be."""
    with suppress(urllib3.exceptions.HTTPError, OSError):
        rest = response.read(MAX_ANSWER_BYTES, decode_content=False)
        if len(rest) < MAX_ANSWER_BYTES:
            response.release_conn()
            return
    response.close()


def _check_status(response: urllib3.BaseHTTPResponse) -> None:
    status = response.status
    if 200 <= status < 300:
        return
    if status in (400, 401, 403):
        # 400 is what S3 says to an expired session token.
        raise GrantExpired(f"the store refused a grant with HTTP {status}")
    raise _Again(f"HTTP {status}")


def _receive(
    response: urllib3.BaseHTTPResponse,
    part: Path,
    sha256: str,
    size: int,
    is_cancelled: Callable[[], bool],
) -> None:
    digest = hashlib.sha256()
    received = 0
    with part.open("wb") as out:
        for block in response.stream(BLOCK_BYTES, decode_content=False):
            if is_cancelled():
                raise TransferCancelled("transfer cancelled")
            received += len(block)
            if received > size:
                raise PermanentError(f"the store sent more than the promised {size} bytes")
            digest.update(block)
            out.write(block)
    if received < size:
        raise _Again(f"{received} of {size} bytes arrived")
    if digest.hexdigest() != sha256:
        raise PermanentError(f"fetched bytes have sha256 {digest.hexdigest()}, not {sha256}")


def unpack(archive: Path, folder: Path, *, max_bytes: int) -> None:
    """
    Unpack a ``.tar.gz`` into an empty folder: plain files and folders below it, nothing else.

    :param max_bytes: Most bytes of all members together.
    :raises UnsafeArchive: If a member is a link or a device, would land elsewhere, comes twice, or
        the members are too many or too large.
    """
    try:
        with archive.open("rb") as packed:
            for member in read_members(packed, max_bytes=max_bytes, max_members=MAX_MEMBERS):
                _unpack_member(member, folder)
    except UnsafeArchive as error:
        # With the cause of the cause: a disk that is full says nothing against an archive.
        raise UnsafeArchive(f"archive: {error}") from error.__cause__
    except (OSError, PermanentError) as error:
        raise UnsafeArchive(f"archive cannot be unpacked: {error}") from error


def _unpack_member(member: Member, folder: Path) -> None:
    if member.name == ".":
        return
    target = folder.joinpath(*split_path(member.name))
    if member.is_folder:
        target.mkdir(mode=0o755, parents=True, exist_ok=True)
        return
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    mode = 0o755 if member.is_executable else 0o644
    # No link can be in the folder, since none is ever made there; O_EXCL refuses doubles.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(target, flags, mode), "wb") as out:
        for piece in member.pieces:
            out.write(piece)
