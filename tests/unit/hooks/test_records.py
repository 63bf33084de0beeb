"""What the record store lists, and what a record can hold; of the real one in integration tests."""

from __future__ import annotations

import pytest

from fakes.listing_promises import ListingPromises, ids, write_submission
from fakes.stores import FakeRecordStore
from touchstone.hooks.records import MAX_RECORD_BYTES, RecordUnfit


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


def test_a_record_that_is_too_large_is_refused_naming_its_largest_fields(records):
    record = {
        "submission_id": "s-1",
        "results": [{"metrics": {f"m{n}": 0.5 for n in range(100)}}] * 600,
        "notes": "x" * 100_000,
        "status": "queued",
    }

    with pytest.raises(RecordUnfit, match=r"largest fields are results \(\d+\), notes \(100005\)"):
        records.create_submission(record)


def test_what_dynamodb_takes_is_taken(records):
    records.create_submission({"submission_id": "s-1", "notes": "x" * (MAX_RECORD_BYTES - 1000)})


def test_letters_count_as_many_bytes_as_they_have(records):
    with pytest.raises(RecordUnfit, match="notes"):
        records.create_submission(
            {"submission_id": "s-1", "notes": "\u65e5" * (MAX_RECORD_BYTES // 3)}
        )


@pytest.mark.parametrize(
    "value", [10**51, float("inf"), "\ud800", {1, 2}], ids=["digits", "inf", "surrogate", "set"]
)
def test_a_value_that_no_record_can_hold_is_refused_here(records, value):
    with pytest.raises(RecordUnfit, match="does not fit in a record"):
        records.create_submission({"submission_id": "s-1", "value": value})


def test_a_value_that_is_nested_without_end_is_refused_here(records):
    value: list = []
    for _ in range(5000):
        value = [value]

    with pytest.raises(RecordUnfit, match="does not fit"):
        records.create_submission({"submission_id": "s-1", "value": value})
