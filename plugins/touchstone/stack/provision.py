"""
Create what Touchstone needs in AWS and MLflow: tables, buckets, queues, experiment.

Only creates what is missing: settings that an operator changed stay as they are. Tables of an
earlier version get the indexes that have come since.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

import httpx
from botocore.exceptions import ClientError

from touchstone.core.enrolment import find_other_environment, list_server_queues
from touchstone.core.paging import find_week
from touchstone.core.records.notes import TaskWeeks
from touchstone.core.records.servers import Server as ServerRecord
from touchstone.hooks.queues import DAY_SECONDS, ensure_command_queue, ensure_queue
from touchstone.settings import Settings
from touchstone.stores.aws import translated_errors
from touchstone.stores.meter import MONTH_INDEX, SUBMISSION_INDEX, UNBILLED_INDEX
from touchstone.stores.money import OPEN_INDEX
from touchstone.stores.records import (
    BY_OWNER,
    BY_OWNER_AND_STATUS,
    BY_STATUS,
    BY_STATUS_AND_WEEK,
    RecordStore,
)
from touchstone.stores.tables import AT_WORK, WEEK, RecordExists
from touchstone_agent.protocol.errors import ConfigurationError, TransientError
from touchstone_agent.protocol.names import build_event_queue

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import (
        CreateTableInputTypeDef,
        GlobalSecondaryIndexTypeDef,
        KeySchemaElementTypeDef,
    )
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

_T = TypeVar("_T")
INDEX_SECONDS = 3600.0
"""How long a new index of a table with many records may take AWS to fill, which goes on anyhow."""
_INDEX_LOOK_SECONDS = 5.0
_BEFORE_US = "2000-01-03"
"""A week before there was any Touchstone."""
_STRAGGLERS = timedelta(days=14)
"""The first week that begins more than a week from now begins less than this from now."""
_EVENT_SECONDS = 10
"""A dispatcher that dies holds what it received for so long, and with it freed slots."""
_MISSING = frozenset(
    {
        "404",
        "NoSuchBucket",
        "ResourceNotFoundException",
    }
)


@dataclass(frozen=True, kw_only=True)
class Server:
    """
    One on-prem server to make known.

    :param name: Its name; also that of its pool and queues.
    :param public_key: By which the control plane knows its agent.
    """

    name: str
    public_key: str


@dataclass(frozen=True, kw_only=True)
class Provisioned:
    """
    One thing that exists now.

    :param kind: ``table``, ``index``, ``bucket``, ``queue``, ``experiment``, ``server`` or
        ``role``.
    :param name: Its name.
    :param created: Whether it was created (or, a server or a role, changed) just now.
    """

    kind: str
    name: str
    created: bool


@dataclass(frozen=True, kw_only=True)
class Index:
    """
    A way to find a table's records by other attributes than their key.

    :param name: Its name.
    :param partition: What is asked for; of several attributes all.
    :param sort: What the answer is in the order of.
    :param has_all: Whether it holds the whole records, or their keys only.
    """

    name: str
    partition: tuple[str, ...]
    sort: str
    has_all: bool = True


@dataclass(frozen=True, kw_only=True)
class Stores:
    """
    The connections that provisioning uses.

    :param dynamodb: Client of the tables.
    :param s3: Client of the buckets.
    :param sqs: Client of the queues.
    """

    dynamodb: DynamoDBClient
    s3: S3Client
    sqs: SQSClient


def provision(settings: Settings, stores: Stores, servers: Sequence[Server]) -> list[Provisioned]:
    """
    Create what is missing in AWS.

    :param settings: The installation's names.
    :param stores: Connections with leave to create.
    :param servers: Servers whose queues and records to create.
    :return: Each thing that exists now.
    :raises TransientError: If AWS does not answer; what exists stays, and another call goes on.
    :raises PermanentError: If AWS refuses.
    """
    with translated_errors("creating tables, buckets and queues"):
        return list(_provision(settings, stores, servers))


def _provision(
    settings: Settings, stores: Stores, servers: Sequence[Server]
) -> Iterator[Provisioned]:
    made = []
    for table in build_tables(settings):
        for each in _ensure_table(stores.dynamodb, table):
            made.append(each)
            yield each
    is_new = Provisioned(kind="table", name=settings.tasks_table, created=True) in made
    note_weeks(RecordStore(stores.dynamodb, settings), is_new=is_new, now=datetime.now(UTC))
    for bucket in (settings.content_bucket, settings.logs_bucket, settings.models_bucket):
        yield _ensure_bucket(stores.s3, bucket)
    events = ensure_queue(
        stores.sqs,
        build_event_queue(settings.env),
        retention_seconds=14 * DAY_SECONDS,
        visibility_seconds=_EVENT_SECONDS,
    )
    yield from (Provisioned(kind="queue", name=name, created=new) for name, new in events)
    for server in servers:
        for queue in list_server_queues(server.name):
            for name, new in ensure_command_queue(stores.sqs, queue):
                yield Provisioned(kind="queue", name=name, created=new)
        yield _ensure_server(stores.dynamodb, settings, server)


def note_weeks(records: RecordStore, *, is_new: bool, now: datetime) -> None:
    """
    Note from which week on the index by week has all tasks, if nobody has.

    Programs of the version before put tasks on record without their week. They are gone by then.

    :param is_new: Whether there were no tasks before this version.
    """
    if records.find_note(TaskWeeks).first is None:
        first = _BEFORE_US if is_new else find_week((now + _STRAGGLERS).isoformat())
        records.put_note(TaskWeeks(first=first))


def build_tables(settings: Settings) -> list[CreateTableInputTypeDef]:
    """Return the definition of each table, as DynamoDB takes it. Pure."""
    by_status = Index(name=BY_STATUS, partition=("status",), sort="created_at", has_all=False)
    at_work = Index(name=AT_WORK, partition=(AT_WORK,), sort="submission_id")
    owned = [
        Index(name=BY_OWNER, partition=("submitted_by",), sort="created_at", has_all=False),
        Index(
            name=BY_OWNER_AND_STATUS,
            partition=("submitted_by", "status"),
            sort="created_at",
            has_all=False,
        ),
    ]
    by_week = Index(
        name=BY_STATUS_AND_WEEK, partition=("status", WEEK), sort="created_at", has_all=False
    )
    group = Index(name="model_group", partition=("model_group_id",), sort="created_at")
    opened = Index(name=OPEN_INDEX, partition=("open",), sort="scope")
    meters = [
        Index(name=MONTH_INDEX, partition=("month",), sort="pod"),
        Index(name=SUBMISSION_INDEX, partition=("submission_id",), sort="pod"),
        Index(name=UNBILLED_INDEX, partition=(UNBILLED_INDEX,), sort="at"),
    ]
    return [
        _table(settings.submissions_table, "submission_id", indexes=[at_work, by_status, *owned]),
        _table(
            settings.tasks_table, "submission_id", "task_id", indexes=[at_work, by_status, by_week]
        ),
        _table(settings.evaluations_table, "model_id", indexes=[group]),
        _table(settings.servers_table, "server"),
        _table(settings.budgets_table, "scope", indexes=[opened]),
        _table(settings.meter_table, "pod", "entry", indexes=meters),
        _table(settings.events_table, "event", "entry"),
    ]


def ensure_experiment(base_url: str, name: str, client: httpx.Client) -> Provisioned:
    """
    Create the MLflow experiment of all trainings if it is missing.

    :param base_url: The MLflow server.
    :param name: The experiment.
    :param client: HTTP client, with the credentials the server wants.
    :raises TransientError: If the server does not answer, or refuses.
    """
    api = f"{base_url}/api/2.0/mlflow/experiments"
    try:
        found = client.get(f"{api}/get-by-name", params={"experiment_name": name})
        if found.is_success:
            return Provisioned(kind="experiment", name=name, created=False)
        created = client.post(f"{api}/create", json={"name": name})
        # Somebody else may have created it between the two requests.
        if "RESOURCE_ALREADY_EXISTS" not in created.text:
            created.raise_for_status()
    except httpx.HTTPError as error:
        raise TransientError(f"experiment {name!r}, MLflow at {base_url}: {error}") from error
    return Provisioned(kind="experiment", name=name, created=True)


def _key(partition: Sequence[str], sort: str | None = None) -> list[KeySchemaElementTypeDef]:
    schema: list[KeySchemaElementTypeDef] = [
        {"AttributeName": name, "KeyType": "HASH"} for name in partition
    ]
    if sort is not None:
        schema.append({"AttributeName": sort, "KeyType": "RANGE"})
    return schema


def _table(
    name: str, partition: str, sort: str | None = None, *, indexes: Sequence[Index] = ()
) -> CreateTableInputTypeDef:
    keys = [_key([partition], sort), *(_key(index.partition, index.sort) for index in indexes)]
    table: CreateTableInputTypeDef = {
        "TableName": name,
        "KeySchema": keys[0],
        "BillingMode": "PAY_PER_REQUEST",
        # Each once, and only those that some key uses: DynamoDB refuses any other.
        "AttributeDefinitions": [
            {"AttributeName": attribute, "AttributeType": "S"}
            for attribute in dict.fromkeys(part["AttributeName"] for part in chain(*keys))
        ],
    }
    if indexes:
        table["GlobalSecondaryIndexes"] = [_index(index) for index in indexes]
    return table


def _index(index: Index) -> GlobalSecondaryIndexTypeDef:
    return {
        "IndexName": index.name,
        "KeySchema": _key(index.partition, index.sort),
        "Projection": {"ProjectionType": "ALL" if index.has_all else "KEYS_ONLY"},
    }


def _find(look: Callable[[], _T]) -> _T | None:
    try:
        return look()
    except ClientError as error:
        if error.response["Error"]["Code"] in _MISSING:
            return None
        raise


def _ensure_table(
    dynamodb: DynamoDBClient, definition: CreateTableInputTypeDef
) -> Iterator[Provisioned]:
    name = definition["TableName"]
    found = _find(lambda: dynamodb.describe_table(TableName=name))
    if found is None:
        dynamodb.create_table(**definition)
        dynamodb.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1})
        yield Provisioned(kind="table", name=name, created=True)
        return
    yield Provisioned(kind="table", name=name, created=False)
    known = {item["IndexName"] for item in found["Table"].get("GlobalSecondaryIndexes", ())}
    for index in definition.get("GlobalSecondaryIndexes", ()):
        label = f"{name}.{index['IndexName']}"
        is_missing = index["IndexName"] not in known
        if is_missing:
            _wait_for_indexes(dynamodb, name)  # one at a time is what AWS takes
            parts = {part["AttributeName"] for part in index["KeySchema"]}
            dynamodb.update_table(
                TableName=name,
                AttributeDefinitions=[
                    item
                    for item in definition["AttributeDefinitions"]
                    if item["AttributeName"] in parts
                ],
                GlobalSecondaryIndexUpdates=[
                    {
                        "Create": {
                            "IndexName": index["IndexName"],
                            "KeySchema": index["KeySchema"],
                            "Projection": index["Projection"],
                        }
                    }
                ],
            )
        yield Provisioned(kind="index", name=label, created=is_missing)
    # Also for one that an earlier call began: it can be read when all records are in it.
    _wait_for_indexes(dynamodb, name)


def _wait_for_indexes(dynamodb: DynamoDBClient, table: str) -> None:
    """
    Wait until no index of a table is being filled any more.

    :raises TransientError: If that takes too long; it goes on at AWS, and another call waits again.
    """
    deadline = time.monotonic() + INDEX_SECONDS
    while True:
        found = dynamodb.describe_table(TableName=table)["Table"]
        indexes = found.get("GlobalSecondaryIndexes", ())
        unready = [i["IndexName"] for i in indexes if i.get("IndexStatus", "ACTIVE") != "ACTIVE"]
        if not unready and found["TableStatus"] == "ACTIVE":
            return
        if time.monotonic() > deadline:
            raise TransientError(
                f"table {table}: index {', '.join(unready) or '...'} is still being filled by AWS; "
                "run `touchstone init` again later"
            )
        time.sleep(_INDEX_LOOK_SECONDS)


def _ensure_bucket(s3: S3Client, name: str) -> Provisioned:
    if _find(lambda: s3.head_bucket(Bucket=name)):
        return Provisioned(kind="bucket", name=name, created=False)
    region = s3.meta.region_name
    if region == "us-east-1":  # The one region that must not be named.
        s3.create_bucket(Bucket=name)
    else:
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": region})  # type: ignore[typeddict-item]
    return Provisioned(kind="bucket", name=name, created=True)


def _ensure_server(dynamodb: DynamoDBClient, settings: Settings, server: Server) -> Provisioned:
    records = RecordStore(dynamodb, settings)
    known = ServerRecord(server=server.name, env=settings.env, public_key=server.public_key)
    try:
        records.create_server(known)
    except RecordExists:
        before = records.find_server(server.name)
        other = find_other_environment(before, settings.env)
        if other is not None:
            raise ConfigurationError(other) from None
        # Only these fields: heartbeat and inventory in the same record are the dispatcher's.
        records.change_server(
            server.name,
            lambda found: found.change(env=known.env, public_key=known.public_key),
        )
        is_same = before is not None and (before.env, before.public_key) == (
            known.env,
            known.public_key,
        )
        return Provisioned(kind="server", name=server.name, created=not is_same)
    return Provisioned(kind="server", name=server.name, created=True)
