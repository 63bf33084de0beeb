"""The audit on a real DynamoDB wire: with the change it is of, or not at all."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from botocore.config import Config

from fakes.submissions import build_submission
from touchstone.core.records.actions import Action
from touchstone.core.records.audit import Door, SubjectKind
from touchstone.settings import Settings
from touchstone.stack.provision import build_tables
from touchstone.stores.audit import AuditStore
from touchstone.stores.records import RecordStore
from touchstone.stores.tables import RecordExists
from touchstone_agent.protocol.errors import PermanentError

pytestmark = pytest.mark.integration

TABLES = ("submissions_table", "events_table")
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
WRITERS = 4


@pytest.fixture
def dynamodb(ministack):
    return boto3.client(
        "dynamodb",
        endpoint_url=ministack,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(max_pool_connections=WRITERS + 2),
    )


@pytest.fixture
def settings(dynamodb):
    settings = Settings(**{name: f"{name}-{uuid.uuid4().hex[:12]}" for name in TABLES})
    names = {getattr(settings, name) for name in TABLES}
    for table in build_tables(settings):
        if table["TableName"] in names:
            dynamodb.create_table(**table)
    return settings


@pytest.fixture
def records(dynamodb, settings):
    return RecordStore(dynamodb, settings).through(Door.PAGE)


@pytest.fixture
def audit(records, settings):
    return AuditStore(records, settings.events_table)


def act(records, number):
    at = NOW + timedelta(seconds=number // 3)
    records.change_submission(
        "s-1", lambda found: found.note_action(at=at, by="ann", action=f"act {number}")
    )


def test_acts_are_read_page_by_page_and_each_reads_no_more_than_it_shows(records, audit, dynamodb):
    records.create_submission(build_submission("s-1"))
    for number in range(10):
        act(records, number)
    read = []
    dynamodb.meta.events.register(
        "after-call.dynamodb.Query", lambda parsed, **_: read.append(len(parsed["Items"]))
    )

    seen, before = [], None
    while True:
        page = audit.list_newest(limit=4, before=before, kind=SubjectKind.SUBMISSION, name="s-1")
        seen += [each.action for each in page.entries]
        before = page.next
        if before is None:
            break

    assert sorted(seen) == [f"act {number}" for number in range(10)]
    assert {each.door for each in page.entries} == {"page"}
    assert max(read) <= 5
    assert len(audit.list_newest(limit=50).entries) == 10


def test_two_at_once_are_both_in_the_audit_once(records, audit):
    records.create_submission(build_submission("s-1"))
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(lambda number: act(records, number), range(2 * WRITERS)))

    told = [each.action for each in audit.list_newest(limit=50).entries]

    assert sorted(told) == sorted(f"act {number}" for number in range(2 * WRITERS))
    assert len(records.get_submission("s-1").actions) == 2 * WRITERS


def test_a_creation_that_is_refused_leaves_no_act(records, audit):
    action = Action(at=NOW, by="ann", action="submitted")
    records.create_submission(build_submission("s-1", actions=[action.dump()]))
    other = action.change(by="ben")

    with pytest.raises(RecordExists):
        records.create_submission(build_submission("s-1", actions=[other.dump()]))

    assert [each.by for each in audit.list_newest(limit=9).entries] == ["ann"]


def test_what_cannot_be_in_the_audit_is_not_done(records, dynamodb, settings):
    records.create_submission(build_submission("s-1"))
    dynamodb.delete_table(TableName=settings.events_table)

    with pytest.raises(PermanentError):
        act(records, 1)

    assert records.get_submission("s-1").actions == ()
