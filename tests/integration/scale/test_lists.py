"""The real lists keep the promises that the fakes make."""

from __future__ import annotations

from datetime import timedelta

import pytest

from fakes.listing_promises import BEGAN, ListingPromises, ids, read_pages, write_submission
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
    everything = [f"s-{number:04}" for number in range(30, -1, -1)]
    assert ids(*read_pages(records, 7)) == everything
    assert ids(*read_pages(records, 7, owner="bob")) == everything[2::3]
    mine = read_pages(records, 7, owner="bob", status=SubmissionStatus.ERROR)
    assert ids(*mine) == [f"s-{number:04}" for number in (25, 13, 1)]
    assert not any(thing.created for thing in provision(older, stores, [])), "all there"


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
