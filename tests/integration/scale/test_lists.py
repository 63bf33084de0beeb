"""The real lists keep the promises that the fakes make."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from fakes.listing_promises import (
    BEGAN,
    ListingPromises,
    build_spread_task,
    ids,
    read_pages,
    read_task_pages,
    write_submission,
)
from touchstone.core.records.notes import TaskWeeks
from touchstone.core.records.submissions import SubmissionSummary
from touchstone.core.states import SubmissionStatus
from touchstone.stack.provision import Stores, provision
from touchstone.stores.meter import Meter
from touchstone.stores.records import RecordStore
from touchstone.stores.tables import to_item
from touchstone_agent.protocol.errors import PermanentError


class TestRecords(ListingPromises):
    @pytest.fixture
    def put_stored(self, dynamodb, settings):
        def put(record) -> None:
            dynamodb.put_item(TableName=settings.submissions_table, Item=to_item(record))

        return put

    @pytest.fixture
    def put_older_task(self, dynamodb, settings):
        def put(task) -> None:
            dynamodb.put_item(TableName=settings.tasks_table, Item=to_item(task.dump()))

        return put


@pytest.fixture
def older(make_settings):
    """Names of tables that an earlier version has made."""
    return make_settings(has_indexes=False)


def test_nothing_is_missing_from_lists_after_an_upgrade(dynamodb, s3, older) -> None:
    """
    An earlier version has written records, and goes on while the tables are being changed.

    The indexes are of what each record always had: its status, its owner, and when it was made.
    """
    stores = Stores(dynamodb=dynamodb, s3=s3, sqs=_NoQueues())
    records = RecordStore(dynamodb, older)
    for number in range(30):
        write_submission(records, number)

    made = provision(older, stores, [])
    write_submission(records, 30)

    created = {thing.name.partition(".")[2] for thing in made if thing.created}
    assert {"by_status", "by_owner", "by_owner_and_status", "unbilled"} <= created
    assert "by_status_and_week" in created
    everything = [f"s-{number:04}" for number in range(30, -1, -1)]
    assert ids(*read_pages(records, 7)) == everything
    assert ids(*read_pages(records, 7, owner="bob")) == everything[2::3]
    mine = read_pages(records, 7, owner="bob", status=SubmissionStatus.ERROR)
    assert ids(*mine) == [f"s-{number:04}" for number in (25, 13, 1)]
    assert not any(thing.created for thing in provision(older, stores, [])), "all there"


def test_tasks_of_before_an_upgrade_are_listed_and_no_week_is_trusted_too_soon(
    dynamodb, s3, older
) -> None:
    stores = Stores(dynamodb=dynamodb, s3=s3, sqs=_NoQueues())
    records = RecordStore(dynamodb, older)

    def put_as_before(number: int) -> None:
        task = build_spread_task(number)
        dynamodb.put_item(TableName=older.tasks_table, Item=to_item(task.dump()))

    for number in range(6):
        put_as_before(number)
    provision(older, stores, [])
    put_as_before(6)  # a program of the version before that still runs

    now = datetime.now(UTC)
    first = records.find_note(TaskWeeks).first
    assert (now + timedelta(days=7)).isoformat() < first <= (now + timedelta(days=14)).isoformat()
    everything = [f"s-{number:04}" for number in range(6, -1, -1)]
    for day in (BEGAN + timedelta(days=12), now):
        assert read_task_pages(records, 2, status=None, now=day) == everything
    provision(older, stores, [])
    assert records.find_note(TaskWeeks).first == first


def test_of_new_tables_all_weeks_are_trusted(dynamodb, s3, make_settings) -> None:
    settings = make_settings(has_tables=False)
    stores = Stores(dynamodb=dynamodb, s3=s3, sqs=_NoQueues())
    for _ in range(2):
        provision(settings, stores, [])
        assert RecordStore(dynamodb, settings).find_note(TaskWeeks).first == "2000-01-03"


def test_an_index_that_is_missing_is_said_to_be_made_by_init(dynamodb, older) -> None:
    records = RecordStore(dynamodb, older)
    for ask in (
        lambda: records.list_submissions(limit=1, model=SubmissionSummary),
        lambda: list(records.list_ended_tasks(1)),
        lambda: Meter(dynamodb, older).list_unbilled(BEGAN - timedelta(days=1)),
    ):
        with pytest.raises(PermanentError, match="`touchstone init`"):
            ask()


class _NoQueues:
    """All queues are there; nothing here needs one."""

    def get_queue_url(self, QueueName: str) -> dict[str, str]:  # noqa: N803 (its name there)
        return {"QueueUrl": QueueName}
