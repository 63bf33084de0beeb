"""What the record store lists, and what a record can hold; of the real one in integration tests."""

from __future__ import annotations

import pytest

from fakes.listing_promises import ListingPromises, ids, write_submission
from fakes.stores import FakeRecordStore
from fakes.submissions import build_submission
from fakes.tasks import build_spec, build_task, change_fields, store_task
from touchstone.core.records.submissions import SubmissionSummary
from touchstone.settings import Settings
from touchstone.stores.tables import MAX_RECORD_BYTES, RecordUnfit


@pytest.fixture
def records() -> FakeRecordStore:
    return FakeRecordStore()


class TestFakeRecords(ListingPromises):
    @pytest.fixture
    def put_stored(self, records):
        return lambda record: records.put_stored(Settings().submissions_table, record)

    @pytest.fixture
    def put_older_task(self, records):
        return lambda task: records._put(Settings().tasks_table, task.dump())


def test_a_submission_that_moves_on_while_lists_are_read_is_in_them_once(records) -> None:
    """All statuses are read one after the other: what moves meanwhile is met twice."""
    write_submission(records, 0, status="queued")
    read = records._iterate_newest

    def move_then_read(table, index, lane, **how):
        yield from read(table, index, lane, **how)
        records.change_submission("s-0000", lambda found: found.change(status="running"))

    records._iterate_newest = move_then_read

    assert ids(records.list_submissions(limit=5, model=SubmissionSummary)) == ["s-0000"]


def test_a_record_that_is_too_large_is_refused_naming_its_largest_fields(records):
    line = {"task_id": "i5", "status": "success", "metrics": {f"m{n}": 0.5 for n in range(100)}}
    submission = build_submission(results=[line] * 600, notes="x" * 100_000)

    with pytest.raises(RecordUnfit, match=r"largest fields are results \(\d+\), notes \(100005\)"):
        records.create_submission(submission)


def test_what_dynamodb_takes_is_taken(records):
    records.create_submission(build_submission(notes="x" * (MAX_RECORD_BYTES - 1000)))


def test_letters_count_as_many_bytes_as_they_have(records):
    with pytest.raises(RecordUnfit, match="notes"):
        records.create_submission(build_submission(notes="\u65e5" * (MAX_RECORD_BYTES // 3)))


@pytest.mark.parametrize(
    "value", [10**51, float("inf"), "\ud800", {1, 2}], ids=["digits", "inf", "surrogate", "set"]
)
def test_a_value_that_no_record_can_hold_is_refused_here(records, value):
    with pytest.raises(RecordUnfit, match="does not fit in a record"):
        store_task(records, {"submission_id": "s-1", "task_id": "i5", "value": value})


@pytest.mark.parametrize(
    "odd",
    [{"score": 10**51}, {"score": float("inf")}, {"score": float("nan")}, {"notes": "\ud800"}],
    ids=["digits", "inf", "nan", "surrogate"],
)
def test_a_submission_that_no_record_can_hold_is_refused_here(records, odd):
    with pytest.raises(RecordUnfit, match="does not fit in a record"):
        records.create_submission(build_submission(**odd))

    records.create_submission(build_submission())
    with pytest.raises(RecordUnfit, match="does not fit in a record"):
        records.change_submission("s-1", lambda found: found.change(**odd))


def test_a_value_that_is_nested_without_end_is_refused_here(records):
    value: list = []
    for _ in range(5000):
        value = [value]

    with pytest.raises(RecordUnfit, match="does not fit"):
        store_task(records, {"submission_id": "s-1", "task_id": "i5", "value": value})


def test_a_task_that_has_not_changed_is_not_made_sense_of_again(records):
    keys = [("s-1", "i1"), ("s-1", "i5"), ("s-1", "i9")]
    for _, task_id in keys[:2]:
        records.create_task(build_task(build_spec(task_id=task_id)))
    first = records.find_tasks(keys)
    change_fields(records, "s-1", "i5", status="running")

    again = records.find_tasks(keys, first)

    assert again.keys() == first.keys() == set(keys[:2])
    assert again["s-1", "i1"] is first["s-1", "i1"]
    assert again["s-1", "i5"].task.status == "running"
