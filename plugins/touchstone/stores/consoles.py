"""The console of an attempt in the object store: chunks, each under the offset it begins at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from touchstone.core.names import build_attempt_prefix, build_console_key
from touchstone.stores.objects import ObjectStore, StoredObject
from touchstone_agent.protocol.messages import MAX_CHUNK_BYTES, AttemptRef

_SUFFIX = ".log"


@dataclass(frozen=True, kw_only=True)
class StoredChunk:
    """
    A piece of a console.

    :param key: Its object.
    :param offset: Of its first byte in the console.
    :param size: Bytes.
    """

    key: str
    offset: int
    size: int

    @property
    def end(self) -> int:
        """Return the offset behind its last byte."""
        return self.offset + self.size


def iterate_chunks(
    objects: ObjectStore, bucket: str, ref: AttemptRef, *, offset: int = 0
) -> Iterator[StoredChunk]:
    """
    Yield the chunks that hold bytes from an offset on, in order; listed as they are asked for.

    What lies further before than a chunk can be long is not listed at all, so that following a
    long console costs no more than following a short one.

    :param bucket: The logs bucket.
    :param offset: The first byte that is wanted.
    """
    before = offset - MAX_CHUNK_BYTES
    after = build_console_key(ref, before) if before >= 0 else None
    prefix = build_attempt_prefix(ref)
    for item in objects.iterate(bucket, prefix, start_after=after):
        chunk = _find_chunk(item, prefix)
        if chunk is not None and chunk.end > offset:
            yield chunk


def find_end(objects: ObjectStore, bucket: str, ref: AttemptRef) -> int:
    """
    Return where the stored console ends, 0 if there is none.

    Asks whether anything lies behind an offset, twice as far each time, and then half as far: a
    list of all of it would take a request for every thousand chunks.

    :param bucket: The logs bucket.
    """
    prefix, low, step = build_attempt_prefix(ref), 0, MAX_CHUNK_BYTES

    def goes_beyond(offset: int) -> bool:
        after = build_console_key(ref, offset)
        found = objects.iterate(bucket, prefix, start_after=after, page=1)
        return any(_find_chunk(item, prefix) for item in found)

    while goes_beyond(low + step):
        low, step = low + step, 2 * step
    while step > MAX_CHUNK_BYTES:
        step //= 2
        if goes_beyond(low + step):
            low += step
    return max((chunk.end for chunk in iterate_chunks(objects, bucket, ref, offset=low)), default=0)


def _find_chunk(item: StoredObject, prefix: str) -> StoredChunk | None:
    digits = item.key.removeprefix(prefix).removesuffix(_SUFFIX)
    if not item.key.endswith(_SUFFIX) or not digits.isdecimal():
        return None
    if item.size > MAX_CHUNK_BYTES:
        return None  # no agent stores such a thing, and it would be read into memory
    return StoredChunk(key=item.key, offset=int(digits), size=item.size)
