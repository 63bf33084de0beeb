"""How the console is cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from touchstone_agent.core.cursor import MAX_CHUNK_BYTES, Chunk, plan_spans


def test_nothing_new_makes_no_chunk() -> None:
    assert plan_spans(10, 10) == ()


def test_a_file_that_became_shorter_makes_no_chunk() -> None:
    assert plan_spans(10, 3) == ()


def test_a_backlog_becomes_several_chunks() -> None:
    spans = plan_spans(5, 5 + 2 * MAX_CHUNK_BYTES + 1)

    assert spans == (
        (5, MAX_CHUNK_BYTES),
        (5 + MAX_CHUNK_BYTES, MAX_CHUNK_BYTES),
        (5 + 2 * MAX_CHUNK_BYTES, 1),
    )


@given(cursor=st.integers(0, 10**6), more=st.integers(0, 10**4), size=st.integers(1, 1000))
def test_chunks_adjoin_and_leave_nothing_out(cursor: int, more: int, size: int) -> None:
    spans = plan_spans(cursor, cursor + more, max_chunk=size, max_chunks=20_000)

    position = cursor
    for offset, length in spans:
        assert offset == position
        assert 0 < length <= size
        position += length
    assert position == cursor + more


def test_a_chunk_is_named_by_its_offset() -> None:
    chunk = Chunk(offset=1234, size=6, sha256="")

    assert chunk.path == "000000001234"
    assert chunk.end == 1240
