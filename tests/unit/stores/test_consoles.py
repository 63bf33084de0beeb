"""Chunks of a console by where they lie."""

from __future__ import annotations

from itertools import pairwise

import pytest

from fakes.stores import FakeObjectStore
from touchstone.core.names import build_console_key
from touchstone.stores.consoles import find_end, iterate_chunks
from touchstone_agent.protocol.messages import MAX_CHUNK_BYTES, AttemptRef

REF = AttemptRef(submission_id="s-1", task_id="i5", attempt=1, fence=1)


class CountingStore(FakeObjectStore):
    """
    Counts what it lists.

    :ivar listed: Keys that were handed out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.listed = 0

    def iterate(self, *args, **kwargs):
        for item in super().iterate(*args, **kwargs):
            self.listed += 1
            yield item


@pytest.fixture
def objects() -> CountingStore:
    return CountingStore()


def fill(objects: CountingStore, *bounds: int) -> None:
    """Store chunks that begin and end at these offsets, one behind the other."""
    for start, end in pairwise(bounds):
        assert objects.put_new("logs", build_console_key(REF, start), bytes(end - start))


def read(objects: CountingStore, offset: int) -> list[int]:
    return [chunk.offset for chunk in iterate_chunks(objects, "logs", REF, offset=offset)]


def test_reading_begins_with_the_chunk_that_holds_the_offset(objects) -> None:
    fill(objects, 0, 10, 20, 30)
    assert read(objects, 0) == read(objects, 9) == [0, 10, 20]
    assert read(objects, 10) == [10, 20]
    assert read(objects, 29) == [20]
    assert read(objects, 30) == read(objects, 10**9) == []


@pytest.mark.parametrize("back", [0, 1, MAX_CHUNK_BYTES - 1, MAX_CHUNK_BYTES])
def test_the_longest_chunk_is_found_from_its_last_byte(objects, back) -> None:
    ends = 5 * MAX_CHUNK_BYTES
    fill(objects, *range(0, ends + 1, MAX_CHUNK_BYTES))
    inside = 3 * MAX_CHUNK_BYTES + MAX_CHUNK_BYTES - 1 - back
    assert read(objects, inside)[0] == inside // MAX_CHUNK_BYTES * MAX_CHUNK_BYTES


def test_a_shorter_chunk_in_between_hides_no_longer_one(objects) -> None:
    """An agent that has restarted may begin again in the middle of what is stored."""
    objects.put_new("logs", build_console_key(REF, 0), bytes(MAX_CHUNK_BYTES))
    objects.put_new("logs", build_console_key(REF, 100), bytes(50))
    assert read(objects, 200) == [0]


def test_other_objects_are_no_chunks(objects) -> None:
    fill(objects, 0, 10)
    for name in ("readme.txt", "x.log", "000000000005"):
        objects.put_new("logs", f"s-1/i5/1-1/{name}", b"x" * 100)
    assert read(objects, 0) == [0]
    assert find_end(objects, "logs", REF) == 10


@pytest.mark.parametrize("chunk", [1000, 64 * 1024, MAX_CHUNK_BYTES])
def test_following_a_long_console_lists_no_more_than_following_a_short_one(objects, chunk) -> None:
    window, counts = MAX_CHUNK_BYTES // chunk + 1, []
    stored = 0
    for chunks in (2 * window, 40 * window):
        fill(objects, *range(stored, chunks * chunk + 1, chunk))
        stored = chunks * chunk
        objects.listed = 0
        assert read(objects, stored) == []
        counts.append(objects.listed)
    assert counts[0] == counts[1] <= window


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 9, 100, 1000])
def test_the_end_of_a_console_is_found(objects, count) -> None:
    chunk = 50_000
    fill(objects, *range(0, count * chunk + 1, chunk))
    assert find_end(objects, "logs", REF) == count * chunk


def test_finding_the_end_of_a_long_console_lists_little_of_it(objects) -> None:
    fill(objects, *range(0, 10_000 * 1_000 + 1, 1_000))
    assert find_end(objects, "logs", REF) == 10_000_000
    assert objects.listed < 2 * MAX_CHUNK_BYTES / 1_000 + 20
