"""
How the console is cut into chunks.

A chunk is decided on, journalled, uploaded and only then passed by the cursor. Its key is its
offset, so a chunk that is sent again after a crash must have exactly the bytes it had before:
the store refuses to overwrite, and a longer chunk under the same key would lose its tail.
"""

from __future__ import annotations

from dataclasses import dataclass

from touchstone_agent.protocol.messages import MAX_CHUNK_BYTES

MAX_CHUNKS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """
    A piece of the console.

    :param offset: First byte.
    :param size: Bytes.
    :param sha256: Hex digest.
    """

    offset: int
    size: int
    sha256: str

    @property
    def path(self) -> str:
        """Return the name under which grants for it are asked."""
        return f"{self.offset:012d}"

    @property
    def end(self) -> int:
        """Return the offset behind its last byte."""
        return self.offset + self.size


def plan_spans(
    cursor: int,
    written: int,
    *,
    max_chunk: int = MAX_CHUNK_BYTES,
    max_chunks: int = MAX_CHUNKS_AT_ONCE,
) -> tuple[tuple[int, int], ...]:
    """
    Cut what is written and not yet uploaded.

    :param cursor: Bytes uploaded.
    :param written: Bytes in the file now.
    :param max_chunk: Largest chunk.
    :param max_chunks: Most chunks; the rest waits for the next round.
    :return: (offset, size) of each chunk, adjoining; empty when there is nothing new.
    """
    spans: list[tuple[int, int]] = []
    while cursor < written and len(spans) < max_chunks:
        size = min(max_chunk, written - cursor)
        spans.append((cursor, size))
        cursor += size
    return tuple(spans)
