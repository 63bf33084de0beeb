"""Brings an attempt's console into the log of the task that waits for it."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Callable
from typing import Final

from touchstone.stores.consoles import find_end, iterate_chunks
from touchstone.stores.objects import ObjectStore
from touchstone_agent.protocol.errors import TransientError
from touchstone_agent.protocol.messages import AttemptRef
from touchstone_agent.protocol.words import build_line

TAIL_BYTES: Final = 64 * 1024
"""A trigger that takes over from another repeats so much of what was there before."""
PAGE_CHUNKS: Final = 20
"""Objects that are read at a time."""
MAX_LINE_CHARACTERS: Final = 2000


class ConsoleRelay:
    """
    Tells the lines of a console as they come: what is there, and later what has been added.

    A relay that begins late tells the end of what was there, and says so: the one before it has
    told the rest in a log of its own.

    :param objects: Where the chunks are.
    :param bucket: The logs bucket.
    :param ref: The attempt.
    :param tell: Called with each line.
    """

    def __init__(
        self, objects: ObjectStore, bucket: str, ref: AttemptRef, tell: Callable[[str], object]
    ) -> None:
        self._objects = objects
        self._bucket = bucket
        self._ref = ref
        self._tell = tell
        self._offset: int | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    async def relay(self) -> None:
        """
        Tell what has come since the last time; nothing if the store is away just now.

        A piece that is not there yet, though a later one is, is waited for.
        """
        try:
            if self._offset is None:
                await self._begin()
            while piece := await asyncio.to_thread(self._read):
                self._take(self._decoder.decode(piece))
        except TransientError:
            return

    def finish(self) -> None:
        """Tell the last line, which nothing ends."""
        self._take(self._decoder.decode(b"", final=True))
        if self._rest:
            self._tell_line(self._rest)
        self._rest = ""

    async def _begin(self) -> None:
        end = await asyncio.to_thread(find_end, self._objects, self._bucket, self._ref)
        self._offset = max(0, end - TAIL_BYTES)
        if self._offset:
            self._tell(f"... {self._offset} bytes of the console were before this ...")

    def _read(self) -> bytes:
        """Return what follows, at most a few chunks of it."""
        position = before = self._offset or 0
        data = bytearray()
        for number, chunk in enumerate(
            iterate_chunks(self._objects, self._bucket, self._ref, offset=before)
        ):
            if number == PAGE_CHUNKS or chunk.offset > position:
                break
            if chunk.end <= position:
                continue
            piece = self._objects.get(self._bucket, chunk.key, max_bytes=chunk.size)
            data += piece[position - chunk.offset :]
            position = before + len(data)
        self._offset = position
        return bytes(data)

    def _take(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).replace("\r\n", "\n").split("\n")
        for line in lines:
            self._tell_line(line)
        if len(self._rest) > MAX_LINE_CHARACTERS:
            self._tell_line(self._rest)
            self._rest = ""

    def _tell_line(self, line: str) -> None:
        # What a container prints must not pass for a line of Airflow's, nor drive a terminal.
        self._tell(f"| {build_line(line, MAX_LINE_CHARACTERS)}")
