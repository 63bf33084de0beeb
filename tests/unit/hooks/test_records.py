"""Lists of the record store in memory; of the real one they are integration tests."""

from __future__ import annotations

import pytest

from fakes.listing_promises import ListingPromises, ids, write_submission
from fakes.stores import FakeRecordStore


@pytest.fixture
def records() -> FakeRecordStore:
    return FakeRecordStore()


class TestFakeRecords(ListingPromises):
    pass


def test_a_submission_that_moves_on_while_lists_are_read_is_in_them_once(records) -> None:
    """All statuses are read one after the other: what moves meanwhile is met twice."""
    write_submission(records, 0, status="queued")
    read = records._iterate_newest

    def move_then_read(table, index, lane, **how):
        yield from read(table, index, lane, **how)
        records.change_submission("s-0000", lambda _: {"status": "running"})

    records._iterate_newest = move_then_read

    assert ids(records.list_submissions(limit=5)) == ["s-0000"]
