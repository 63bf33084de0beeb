"""
Create what Touchstone needs in AWS and MLflow: tables, buckets, queues, experiment.

Only creates what is missing: settings that an operator changed stay as they are. Tables of an
earlier version get the indexes that have come since.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
from botocore.exceptions import ClientError

from touchstone.hooks.aws import translated_errors
from touchstone.hooks.letters import build_dead_letter_queue
from touchstone.hooks.meter import MONTH_INDEX, SUBMISSION_INDEX, UNBILLED_INDEX
from touchstone.hooks.money import OPEN_INDEX
from touchstone.hooks.records import (
    AT_WORK,
    BY_OWNER,
    BY_OWNER_AND_STATUS,
    BY_STATUS,
    RecordExists,
    RecordStore,
)
from touchstone.settings import Settings
from touchstone_agent.protocol.errors import TransientError
from touchstone_agent.protocol.names import (
    build_control_queue,
    build_event_queue,
    build_request_queue,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

_T = TypeVar("_T")
_DAY_SECONDS = 86_400
MAX_RECEIVES = 1000
"""A store that is down for hours must cost no event. What fails for another reason the dispatcher
sets aside itself; this is for what it does not survive."""
MAX_COMMAND_RECEIVES = 12
"""An agent needs no store to take a command in: what it has received so often it never will, and it
has said so by then."""
INDEX_SECONDS = 3600.0
"""How long a new index of a table with many records may take AWS to fill, which goes on anyhow."""
_INDEX_LOOK_SECONDS = 5.0
_EVENT_SECONDS = 10
"""A dispatcher that dies holds what it received for so long, and with it freed slots."""
_MISSING = frozenset(
    {
        "404",
        "NoSuchBucket",
        "ResourceNotFoundException",
        "QueueDoesNotExist",
        "AWS.SimpleQueueService.NonExistentQueue",
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

    :param kind: ``table``, ``index``, ``bucket``, ``queue``, ``experiment`` or ``server``.
    :param name: Its name.
    :param created: Whether it was created (or, a server, changed) just now.
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
    for table in build_tables(settings):
        yield from _ensure_table(stores.dynamodb, table)
    for bucket in (settings.content_bucket, settings.logs_bucket, settings.models_bucket):
        yield _ensure_bucket(stores.s3, bucket)
    yield from _ensure_queue(
        stores.sqs,
        build_event_queue(settings.env),
        retention_seconds=14 * _DAY_SECONDS,
        visibility_seconds=_EVENT_SECONDS,
    )
    for server in servers:
        for queue in (build_request_queue(server.name), build_control_queue(server.name)):
            yield from _ensure_queue(
                stores.sqs,
                queue,
                retention_seconds=4 * _DAY_SECONDS,
                max_receives=MAX_COMMAND_RECEIVES,
            )
        yield _ensure_server(stores.dynamodb, settings, server)


def build_tables(settings: Settings) -> list[dict[str, Any]]:
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
    group = Index(name="model_group", partition=("model_group_id",), sort="created_at")
    opened = Index(name=OPEN_INDEX, partition=("open",), sort="scope")
    meters = [
        Index(name=MONTH_INDEX, partition=("month",), sort="pod"),
        Index(name=SUBMISSION_INDEX, partition=("submission_id",), sort="pod"),
        Index(name=UNBILLED_INDEX, partition=(UNBILLED_INDEX,), sort="at"),
    ]
    return [
        _table(settings.submissions_table, "submission_id", indexes=[at_work, by_status, *owned]),
        _table(settings.tasks_table, "submission_id", "task_id", indexes=[at_work, by_status]),
        _table(settings.evaluations_table, "model_id", indexes=[group]),
        _table(settings.servers_table, "server"),
        _table(settings.budgets_table, "scope", indexes=[opened]),
        _table(settings.meter_table, "pod", "entry", indexes=meters),
    ]


def build_queue_attributes(
    *,
    retention_seconds: int,
    visibility_seconds: int,
    dead_letter_arn: str,
    max_receives: int = MAX_RECEIVES,
) -> dict[str, str]:
    """
    Return the attributes of a queue, as SQS takes them. Pure.

    :param retention_seconds: How long a message waits before it is dropped.
    :param visibility_seconds: How long a message that was received comes not again.
    :param dead_letter_arn: Where a message goes that was received too often without success.
    :param max_receives: How often that is.
    """
    return {
        **_FIFO,
        "VisibilityTimeout": str(visibility_seconds),
        "MessageRetentionPeriod": str(retention_seconds),
        "RedrivePolicy": json.dumps(
            {"deadLetterTargetArn": dead_letter_arn, "maxReceiveCount": str(max_receives)}
        ),
    }


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


_FIFO = {
    "FifoQueue": "true",
    "ContentBasedDeduplication": "false",
    # A group is one task: many tasks must not share a queue's basic 300 requests per second.
    "DeduplicationScope": "messageGroup",
    "FifoThroughputLimit": "perMessageGroupId",
}


def _key(partition: Sequence[str], sort: str | None = None) -> list[dict[str, str]]:
    schema = [{"AttributeName": name, "KeyType": "HASH"} for name in partition]
    if sort is not None:
        schema.append({"AttributeName": sort, "KeyType": "RANGE"})
    return schema


def _table(
    name: str, partition: str, sort: str | None = None, *, indexes: Sequence[Index] = ()
) -> dict[str, Any]:
    table: dict[str, Any] = {
        "TableName": name,
        "KeySchema": _key([partition], sort),
        "BillingMode": "PAY_PER_REQUEST",
    }
    if indexes:
        table["GlobalSecondaryIndexes"] = [_index(index) for index in indexes]
    # Each once, and only those that some key uses: DynamoDB refuses any other.
    parts = chain(
        table["KeySchema"], *(i["KeySchema"] for i in table.get("GlobalSecondaryIndexes", ()))
    )
    table["AttributeDefinitions"] = [
        {"AttributeName": attribute, "AttributeType": "S"}
        for attribute in dict.fromkeys(part["AttributeName"] for part in parts)
    ]
    return table


def _index(index: Index) -> dict[str, Any]:
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


def _ensure_table(dynamodb: DynamoDBClient, definition: dict[str, Any]) -> Iterator[Provisioned]:
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
                GlobalSecondaryIndexUpdates=[{"Create": index}],
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


def _ensure_queue(
    sqs: SQSClient,
    name: str,
    *,
    retention_seconds: int,
    visibility_seconds: int = 30,
    max_receives: int = MAX_RECEIVES,
) -> Iterator[Provisioned]:
    dead_letter = build_dead_letter_queue(name)
    url = _find(lambda: sqs.get_queue_url(QueueName=dead_letter)["QueueUrl"])
    yield Provisioned(kind="queue", name=dead_letter, created=url is None)
    if url is None:
        url = sqs.create_queue(
            QueueName=dead_letter,
            Attributes={**_FIFO, "MessageRetentionPeriod": str(14 * _DAY_SECONDS)},  # type: ignore[dict-item]
        )["QueueUrl"]
    missing = _find(lambda: sqs.get_queue_url(QueueName=name)) is None
    if missing:
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"][
            "QueueArn"
        ]
        attributes = build_queue_attributes(
            retention_seconds=retention_seconds,
            visibility_seconds=visibility_seconds,
            dead_letter_arn=arn,
            max_receives=max_receives,
        )
        sqs.create_queue(QueueName=name, Attributes=attributes)  # type: ignore[arg-type]
    yield Provisioned(kind="queue", name=name, created=missing)


def _ensure_server(dynamodb: DynamoDBClient, settings: Settings, server: Server) -> Provisioned:
    records = RecordStore(dynamodb, settings)
    known = {"env": settings.env, "public_key": server.public_key}
    try:
        records.create_server({"server": server.name, **known})
    except RecordExists:
        before = records.find_server(server.name)
        # Only these fields: heartbeat and inventory in the same record are the dispatcher's.
        after = records.change_server(
            server.name,
            lambda record: {k: v for k, v in known.items() if record.get(k) != v} or None,
        )
        return Provisioned(kind="server", name=server.name, created=before != after)
    return Provisioned(kind="server", name=server.name, created=True)
