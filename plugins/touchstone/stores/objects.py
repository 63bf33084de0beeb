"""Objects in S3: content, outputs, models, console logs."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import urllib3
from botocore.config import Config
from botocore.exceptions import ClientError

from touchstone.cache import KeptBytes
from touchstone.settings import Settings
from touchstone.stores.aws import (
    NOT_FOUND_CODES,
    build_client,
    get_error_code,
    translated_errors,
)
from touchstone_agent.protocol.errors import PermanentError, TransientError
from touchstone_agent.protocol.messages import Grant

MAX_BYTES = 16 * 1024**2
"""What is read into memory of an object, unless its reader says otherwise."""

KEPT_BYTES = 8 * 1024**2
"""So many bytes are kept of objects that are written once, for those who ask for them again."""

_BLOCK_BYTES = 1024**2

GRANT_SECONDS = 3600
"""Life of a presigned URL: role credentials cap it, so a longer one would lie."""


class ObjectNotFound(PermanentError):
    """There is no object of that key."""


class ObjectTooLarge(PermanentError):
    """An object has more bytes than its reader takes."""


class ObjectCorrupt(PermanentError):
    """An object's bytes do not have the digest on record."""


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """
    An object in a listing.

    :param key: Its key.
    :param size: Its size in bytes.
    """

    key: str
    size: int


class ObjectStore:
    """
    Reads, writes and signs for objects.

    :param client: An S3 client.
    :param clock: The time, UTC.
    """

    def __init__(
        self, client: Any, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._client = client
        self._clock = clock
        self._kept = KeptBytes(KEPT_BYTES)

    @classmethod
    def connect(cls, settings: Settings) -> Self:
        """Return a store that uses the installation's AWS connection."""
        config = Config(signature_version="s3v4", s3={"addressing_style": "path"})
        return cls(build_client("s3", settings.aws_conn_id, config))

    def get(
        self, bucket: str, key: str, *, sha256: str | None = None, max_bytes: int = MAX_BYTES
    ) -> bytes:
        """
        Return an object's bytes, all of them in memory; :meth:`fetch` is for large ones.

        :param sha256: Hex digest they must have; ``None`` to take what is there.
        :param max_bytes: Most bytes that are read.
        :raises ObjectNotFound: If there is none.
        :raises ObjectTooLarge: If it has more.
        :raises ObjectCorrupt: If the digest differs.
        """
        with self._open(bucket, key, max_bytes) as body, translated_reads(bucket, key):
            found: bytes = body.read(max_bytes + 1)
        if len(found) > max_bytes:
            raise ObjectTooLarge(f"s3://{bucket}/{key} has more than {max_bytes} bytes")
        if sha256 is not None and hashlib.sha256(found).hexdigest() != sha256:
            raise ObjectCorrupt(f"s3://{bucket}/{key} does not have sha256 {sha256}")
        return found

    def get_unchanging(self, bucket: str, key: str, *, max_bytes: int) -> bytes:
        """
        Return the bytes of an object that is written once, perhaps as they were read before.

        Many people look at the same console, and each page of it asks again and again.

        :raises ObjectNotFound: As :meth:`get`, also below.
        :raises ObjectTooLarge: If it has more.
        """
        found = self._kept.find((bucket, key))
        if found is None:
            found = self.get(bucket, key, max_bytes=max_bytes)
            self._kept.keep((bucket, key), found)
        return found

    def fetch(self, bucket: str, key: str, target: Path, *, sha256: str, size: int) -> None:
        """
        Write an object to a file, block by block.

        :param target: The file; it appears only when it is right.
        :param sha256: Hex digest that it must have.
        :param size: Bytes that it must have.
        :raises ObjectNotFound: If there is none.
        :raises ObjectTooLarge: If it has more bytes.
        :raises ObjectCorrupt: If the digest differs.
        """
        part = target.with_name(f"{target.name}.part")
        digest, left = hashlib.sha256(), size
        try:
            with self._open(bucket, key, size) as body, part.open("wb") as file:
                while block := self._read_block(bucket, key, body, left):
                    left -= len(block)
                    if left < 0:
                        raise ObjectTooLarge(f"s3://{bucket}/{key} has more than {size} bytes")
                    digest.update(block)
                    file.write(block)
            if left or digest.hexdigest() != sha256:
                raise ObjectCorrupt(f"s3://{bucket}/{key} does not have sha256 {sha256}")
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    def copy_new(self, bucket: str, key: str, *, source_bucket: str, source_key: str) -> bool:
        """
        Copy an object within the store unless the new key is taken; nothing comes through here.

        What was read of the source before is what is copied: an object's key is written once.

        :return: Whether it was copied; ``False`` if there was an object already.
        :raises ObjectNotFound: If the source is not there.
        """
        # AWS keeps the condition of a copy itself; MiniStack does not look at it.
        if self.has(bucket, key):
            return False
        try:
            with translated_errors(f"copying s3://{source_bucket}/{source_key} to {bucket}/{key}"):
                self._client.copy_object(
                    Bucket=bucket,
                    Key=key,
                    CopySource={"Bucket": source_bucket, "Key": source_key},
                    IfNoneMatch="*",
                )
        except PermanentError as error:
            if _is_taken(error):
                return False
            if _is_not_found(error):
                raise ObjectNotFound(f"there is no s3://{source_bucket}/{source_key}") from error
            raise
        return True

    @contextmanager
    def _open(self, bucket: str, key: str, max_bytes: int) -> Iterator[Any]:
        """Open an object's body, unless the store says at once that it is too large."""
        try:
            with translated_errors(f"reading s3://{bucket}/{key}"):
                answer = self._client.get_object(Bucket=bucket, Key=key)
        except PermanentError as error:
            if _is_not_found(error):
                raise ObjectNotFound(f"there is no s3://{bucket}/{key}") from error
            raise
        # Closed in any case: a body that is read half must not go back to the pool.
        with closing(answer["Body"]) as body:
            if int(answer.get("ContentLength") or 0) > max_bytes:
                raise ObjectTooLarge(f"s3://{bucket}/{key} has more than {max_bytes} bytes")
            yield body

    @staticmethod
    def _read_block(bucket: str, key: str, body: Any, left: int) -> bytes:
        with translated_reads(bucket, key):
            block: bytes = body.read(min(_BLOCK_BYTES, max(left, 0) + 1))
        return block

    def has(self, bucket: str, key: str) -> bool:
        """Tell whether there is an object of that key."""
        try:
            with translated_errors(f"looking for s3://{bucket}/{key}"):
                self._client.head_object(Bucket=bucket, Key=key)
        except PermanentError as error:
            if _is_not_found(error):
                return False
            raise
        return True

    def get_size(self, bucket: str, key: str) -> int:
        """
        Return an object's size in bytes.

        :raises ObjectNotFound: If there is none.
        """
        try:
            with translated_errors(f"looking at s3://{bucket}/{key}"):
                return int(self._client.head_object(Bucket=bucket, Key=key)["ContentLength"])
        except PermanentError as error:
            if _is_not_found(error):
                raise ObjectNotFound(f"there is no s3://{bucket}/{key}") from error
            raise

    def put_new(
        self, bucket: str, key: str, body: bytes, *, content_type: str = "application/octet-stream"
    ) -> bool:
        """
        Write an object unless its key is taken; nothing is ever overwritten.

        :return: Whether it was written; ``False`` if there was one already.
        """
        try:
            with translated_errors(f"writing s3://{bucket}/{key}"):
                self._client.put_object(
                    Bucket=bucket, Key=key, Body=body, ContentType=content_type, IfNoneMatch="*"
                )
        except PermanentError as error:
            if _is_taken(error):
                return False
            raise
        return True

    def put(
        self, bucket: str, key: str, body: bytes, *, content_type: str = "application/octet-stream"
    ) -> None:
        """Write an object whose key has but a newest state; nothing of an attempt is such."""
        with translated_errors(f"writing s3://{bucket}/{key}"):
            self._client.put_object(Bucket=bucket, Key=key, Body=body, ContentType=content_type)

    def iterate(
        self, bucket: str, prefix: str, *, start_after: str | None = None, page: int = 1000
    ) -> Iterator[StoredObject]:
        """
        Yield the objects whose keys begin with ``prefix``, by key, as they are asked for.

        :param start_after: Only those behind this key.
        :param page: How many to ask the store for at once.
        """
        begin = {"StartAfter": start_after} if start_after is not None else {}
        pages = iter(
            self._client.get_paginator("list_objects_v2").paginate(
                Bucket=bucket, Prefix=prefix, PaginationConfig={"PageSize": page}, **begin
            )
        )
        while True:
            with translated_errors(f"listing s3://{bucket}/{prefix}"):
                found = next(pages, None)
            if found is None:
                return
            for item in found.get("Contents", ()):
                yield StoredObject(key=item["Key"], size=int(item["Size"]))

    def list(self, bucket: str, prefix: str) -> list[StoredObject]:
        """Return the objects whose keys begin with ``prefix``, by key."""
        return [*self.iterate(bucket, prefix)]

    def grant_get(self, bucket: str, key: str) -> Grant:
        """Return leave to read one object, for :data:`GRANT_SECONDS`."""
        url = self._client.generate_presigned_url(
            "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=GRANT_SECONDS
        )
        return Grant(method="GET", url=url, expires_at=self._expiry())

    def grant_put(self, bucket: str, key: str, *, sha256: str, size: int) -> Grant:
        """
        Return leave to write one object that is not there yet, with exactly these bytes.

        The store itself checks the digest, and ``If-None-Match`` keeps an attempt that was
        fenced off from writing over a newer one's.
        """
        try:
            checksum = base64.b64encode(bytes.fromhex(sha256)).decode()
        except ValueError as error:
            raise PermanentError(f"{key}: {sha256[:80]!r} is no sha256") from error
        url = self._client.generate_presigned_url(
            "put_object",
            Params={
                "Bucket": bucket,
                "Key": key,
                "IfNoneMatch": "*",
                "ChecksumSHA256": checksum,
                "ContentLength": size,
            },
            ExpiresIn=GRANT_SECONDS,
        )
        headers = {
            "If-None-Match": "*",
            "x-amz-checksum-sha256": checksum,
            "Content-Length": str(size),
        }
        return Grant(method="PUT", url=url, headers=headers, expires_at=self._expiry())

    def _expiry(self) -> datetime:
        return self._clock() + timedelta(seconds=GRANT_SECONDS)


@contextmanager
def translated_reads(bucket: str, key: str) -> Iterator[None]:
    """Turn what breaks in the middle of a body into an error that may not repeat itself."""
    with translated_errors(f"reading s3://{bucket}/{key}"):
        try:
            yield
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise TransientError(f"reading s3://{bucket}/{key}: {error!r:.300}") from error


def _is_taken(error: PermanentError) -> bool:
    cause = error.__cause__
    return isinstance(cause, ClientError) and get_error_code(cause) in {"412", "PreconditionFailed"}


def _is_not_found(error: PermanentError) -> bool:
    cause = error.__cause__
    return isinstance(cause, ClientError) and get_error_code(cause) in NOT_FOUND_CODES
