"""What lists of records promise, of the fake store and of the real one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fakes.submissions import build_submission
from fakes.tasks import build_spec, build_task
from touchstone.core.paging import Place, TaskListPlace
from touchstone.core.records.kept import SparseRecord
from touchstone.core.records.notes import TaskWeeks
from touchstone.core.records.stored import Time
from touchstone.core.records.submissions import Submission, SubmissionSummary
from touchstone.core.records.tasks import Task
from touchstone.core.states import SubmissionStatus, TaskStatus
from touchstone.stores.records import RecordStore, SubmissionPage

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
STATUSES = ("success", "error", "running", "rejected")
OWNERS = ("ann", "bob", "cyd")


class Outline(SparseRecord):
    """Some fields of a submission; of what the store hands out it takes also the others."""

    score: float | None = None
    system: str | None = None
    created_at: Time

    @classmethod
    def list_wanted(cls) -> tuple[str, ...]:
        return tuple(cls.model_fields)


def write_submission(records: RecordStore, number: int, **fields: Any) -> None:
    """Write one of many submissions, each a minute younger than the one before."""
    told = {
        "status": STATUSES[number % len(STATUSES)],
        "submitted_by": OWNERS[number % len(OWNERS)],
        "created_at": (BEGAN + timedelta(minutes=number)).isoformat(),
    }
    records.create_submission(build_submission(f"s-{number:04}", **(told | fields)))


def read_pages(
    records: RecordStore, limit: int, **query: Any
) -> Iterator[SubmissionPage[SubmissionSummary]]:
    """Yield all pages of a list."""
    before = None
    while True:
        page = records.list_submissions(
            limit=limit, before=before, model=SubmissionSummary, **query
        )
        yield page
        before = page.next
        if before is None:
            return


def build_spread_task(number: int) -> Task:
    """Return one of many tasks, each two days younger than the one before."""
    spec = build_spec(submission_id=f"s-{number:04}")
    created_at = (BEGAN + timedelta(days=2 * number)).isoformat()
    status = ("success", "success", "error", "running")[number % 4]
    return build_task(spec, status=status, created_at=created_at)


def read_task_pages(records: RecordStore, limit: int, **query: Any) -> list[str]:
    """Return the submissions of all tasks of a list, page by page."""
    found: list[str] = []
    before: TaskListPlace | None = None
    while True:
        rows, before = records.list_newest_rows(limit=limit, before=before, **query)
        found += [row.submission_id for row in rows.records]
        if before is None:
            return found


def ids(*pages: SubmissionPage[SubmissionSummary]) -> list[str]:
    return [record.submission_id for page in pages for record in page.records]


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
        first = records.list_submissions(limit=3, model=SubmissionSummary)
        write_submission(records, 6)
        records.change_submission("s-0003", lambda found: found.change(status="cancelled"))
        assert ids(first) == ["s-0005", "s-0004", "s-0003"]
        following = records.list_submissions(limit=3, before=first.next, model=SubmissionSummary)
        assert ids(following) == ["s-0002", "s-0001", "s-0000"]
        assert following.next is None

    def test_a_place_that_no_submission_has_will_do(self, records) -> None:
        for number in range(4):
            write_submission(records, number)
        moment = (BEGAN + timedelta(minutes=2)).isoformat()
        page = records.list_submissions(limit=9, before=Place(moment, "s"), model=SubmissionSummary)
        assert ids(page) == ["s-0001", "s-0000"]

    def test_the_whole_record_is_read_or_what_is_wanted_of_it(self, records) -> None:
        write_submission(records, 0, notes="mine", score=0.25, remarks=["x"], of_tomorrow=[1])
        (record,) = records.list_submissions(limit=1, model=Submission).records
        assert (record.notes, record.score, record.remarks) == ("mine", 0.25, ("x",))
        assert record.dump()["of_tomorrow"] == [1]
        (record,) = records.list_submissions(limit=1, model=Outline).records
        assert (record.score, record.created_at) == (0.25, BEGAN)
        assert record.dump().keys() == {"submission_id", "status", "score", "created_at"}

    def test_one_that_makes_no_sense_is_left_out_of_a_page_and_told(
        self, records, caplog, put_stored
    ) -> None:
        for number in range(4):
            write_submission(records, number)
        odd = build_submission("s-0002", created_at=(BEGAN + timedelta(minutes=2)).isoformat())
        put_stored(odd.dump() | {"status": "running", "score": "much"})

        page = records.list_submissions(limit=3, model=SubmissionSummary)

        assert ids(page) == ["s-0003", "s-0001"]
        assert page.next is not None
        assert list(page.unreadable) == ["s-0002"]
        assert "s-0002: submissionsummary record: score" in caplog.text

    def test_the_newest_tasks_that_have_ended_come_oldest_first(self, records) -> None:
        for number in range(20):
            status = ("success", "running", "error", "queued", "lost")[number % 5]
            created_at = (BEGAN + timedelta(minutes=number)).isoformat()
            spec = build_spec(submission_id=f"s-{number}")
            records.create_task(build_task(spec, status=status, created_at=created_at))
        found = [entry.read().submission_id for entry in records.list_ended_tasks(5)]
        assert found == ["s-12", "s-14", "s-15", "s-17", "s-19"]

    @pytest.mark.parametrize("first", [None, "2000-01-03", "2026-02-16"])
    @pytest.mark.parametrize("status", [None, *map(TaskStatus, ("success", "error", "lost"))])
    def test_pages_of_tasks_add_up_to_all_whatever_version_wrote_them(
        self, records, put_older_task, first, status
    ) -> None:
        """Those of a version before have no week; from the first week on there are none."""
        tasks = [build_spread_task(number) for number in range(40)]
        if first is not None:
            records.put_note(TaskWeeks(first=first))
        for task in tasks:
            if first is None or task.created_at.isoformat() < first:
                put_older_task(task)
            else:
                records.create_task(task)
        newest = tasks[-1].created_at
        wanted = [t.submission_id for t in reversed(tasks) if status in {None, t.status}]

        for limit in (1, 7, 100):
            for now in (newest, newest + timedelta(days=400)):
                assert read_task_pages(records, limit, status=status, now=now) == wanted

    def test_a_task_that_moves_on_stays_in_the_list_of_its_week(self, records) -> None:
        records.put_note(TaskWeeks(first="2000-01-03"))
        records.create_task(build_spread_task(3))
        records.change_task("s-0003", "i5", lambda found: found.change(status=TaskStatus.SUCCESS))
        for status, found in (("running", []), ("success", ["s-0003"])):
            told = {"status": TaskStatus(status), "now": BEGAN + timedelta(days=6)}
            assert read_task_pages(records, 5, **told) == found
        assert "week" not in records.get_task("s-0003", "i5").dump()

    def test_where_tasks_are_at_work_is_told(self, records) -> None:
        for number, (status, attempt) in enumerate([("running", 1), ("success", 1), ("queued", 0)]):
            spec = build_spec(submission_id=f"s-{number}")
            records.create_task(build_task(spec, status=status, attempt=attempt, server="rio"))
        assert records.find_servers_at_work() == {("s-0", "i5"): "rio"}
