"""What lists of records promise, of the fake store and of the real one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from touchstone.core.paging import Place
from touchstone.core.states import SubmissionStatus
from touchstone.hooks.records import RecordStore, SubmissionPage

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
STATUSES = ("success", "error", "running", "rejected")
OWNERS = ("ann", "bob", "cyd")


def write_submission(records: RecordStore, number: int, **fields: Any) -> None:
    """Write one of many submissions, each a minute younger than the one before."""
    records.create_submission(
        {
            "submission_id": f"s-{number:04}",
            "status": STATUSES[number % len(STATUSES)],
            "submitted_by": OWNERS[number % len(OWNERS)],
            "created_at": (BEGAN + timedelta(minutes=number)).isoformat(),
        }
        | fields
    )


def read_pages(records: RecordStore, limit: int, **query: Any) -> Iterator[SubmissionPage]:
    """Yield all pages of a list."""
    before = None
    while True:
        page = records.list_submissions(limit=limit, before=before, **query)
        yield page
        before = page.next
        if before is None:
            return


def ids(*pages: SubmissionPage) -> list[str]:
    return [record["submission_id"] for page in pages for record in page.records]


class ListingPromises:
    @pytest.mark.parametrize(
        ("query", "numbers"),
        [
            ({}, range(60)),
            ({"status": SubmissionStatus.ERROR}, range(1, 60, 4)),
            ({"owner": "bob"}, range(1, 60, 3)),
            ({"owner": "bob", "status": SubmissionStatus.ERROR}, range(1, 60, 12)),
            ({"owner": "nobody"}, ()),
            ({"status": SubmissionStatus.RETRACTED}, ()),
        ],
        ids=["all", "status", "owner", "owner and status", "a stranger", "no such"],
    )
    def test_pages_add_up_to_the_whole_list_newest_first(self, records, query, numbers) -> None:
        for number in range(60):
            write_submission(records, number)
        for limit in (1, 7, 60, 500):
            pages = list(read_pages(records, limit, **query))
            assert ids(*pages) == [f"s-{number:04}" for number in sorted(numbers, reverse=True)]
            assert all(len(page.records) == limit for page in pages[:-1])

    def test_submissions_of_one_moment_are_each_in_one_page(self, records) -> None:
        for number in (3, 1, 4, 2, 0, 5):
            write_submission(records, number, created_at=BEGAN.isoformat())
        for limit in (1, 2, 5):
            found = ids(*read_pages(records, limit))
            assert found == [f"s-{number:04}" for number in (5, 4, 3, 2, 1, 0)]

    def test_a_page_goes_on_behind_what_came_meanwhile_and_what_is_gone(self, records) -> None:
        for number in range(6):
            write_submission(records, number)
        first = records.list_submissions(limit=3)
        write_submission(records, 6)
        records.change_submission("s-0003", lambda _: {"status": "cancelled"})
        assert ids(first) == ["s-0005", "s-0004", "s-0003"]
        following = records.list_submissions(limit=3, before=first.next)
        assert ids(following) == ["s-0002", "s-0001", "s-0000"]
        assert following.next is None

    def test_a_place_that_no_submission_has_will_do(self, records) -> None:
        for number in range(4):
            write_submission(records, number)
        moment = (BEGAN + timedelta(minutes=2)).isoformat()
        page = records.list_submissions(limit=9, before=Place(moment, "s"))
        assert ids(page) == ["s-0001", "s-0000"]

    def test_the_whole_record_is_read_or_what_is_wanted_of_it(self, records) -> None:
        write_submission(records, 0, notes="mine", score=0.25, results=[1])
        (record,) = records.list_submissions(limit=1).records
        assert (record["notes"], record["score"], record["results"]) == ("mine", 0.25, [1])
        fields = ("score", "system", "created_at")
        (record,) = records.list_submissions(limit=1, fields=fields).records
        assert record.keys() == {"submission_id", "status", "score", "created_at"}
        assert record["score"] == 0.25

    def test_the_newest_tasks_that_have_ended_come_oldest_first(self, records) -> None:
        for number in range(20):
            status = ("success", "running", "error", "queued", "lost")[number % 5]
            records.create_task(
                {
                    "submission_id": f"s-{number}",
                    "task_id": "i5",
                    "status": status,
                    "created_at": (BEGAN + timedelta(minutes=number)).isoformat(),
                }
            )
        found = [task["submission_id"] for task in records.list_ended_tasks(5)]
        assert found == ["s-12", "s-14", "s-15", "s-17", "s-19"]

    def test_where_tasks_are_at_work_is_told(self, records) -> None:
        for number, (status, attempt) in enumerate([("running", 1), ("success", 1), ("queued", 0)]):
            records.create_task(
                {
                    "submission_id": f"s-{number}",
                    "task_id": "i5",
                    "status": status,
                    "attempt": attempt,
                    "server": "rio",
                    "created_at": BEGAN.isoformat(),
                }
            )
        assert records.find_servers_at_work() == {("s-0", "i5"): "rio"}
