"""Tables and buckets of their own on a real wire, and a count of what is read from them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.config import Config

from fakes.reads import Reads
from touchstone.settings import Settings
from touchstone.stack.provision import build_tables
from touchstone.stores.items import keep_items
from touchstone.stores.records import RecordStore

TABLES = (
    "submissions_table",
    "tasks_table",
    "evaluations_table",
    "servers_table",
    "events_table",
    "budgets_table",
    "meter_table",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if "/tests/integration/scale/" in str(item.path):
            item.add_marker(pytest.mark.integration)


def connect(service: str, url: str, **more: Any) -> Any:
    client = boto3.client(
        service,
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        # Checking what is asked for takes longer than asking, when it is ten thousand records.
        config=Config(read_timeout=300, parameter_validation=False, **more),
    )
    if service == "dynamodb":
        keep_items(client)
    return client


@pytest.fixture(scope="session")
def dynamodb(ministack: str) -> Any:
    return connect("dynamodb", ministack)


@pytest.fixture(scope="session")
def s3(ministack: str) -> Any:
    return connect("s3", ministack, s3={"addressing_style": "path"})


@pytest.fixture(scope="session")
def reads(dynamodb: Any, s3: Any) -> Reads:
    """What the two clients read; there is one for all tests."""
    return Reads(dynamodb, s3)


@pytest.fixture(scope="session")
def make_settings(dynamodb: Any, s3: Any) -> Callable[..., Settings]:
    """Make empty tables and buckets, and return their names."""

    def make(*, has_indexes: bool = True, has_tables: bool = True) -> Settings:
        mark = uuid.uuid4().hex[:10]
        settings = Settings(env=f"x{mark}", **{name: f"{name}-{mark}" for name in TABLES})
        for table in build_tables(settings) if has_tables else ():
            if not has_indexes:
                table = _without_new_indexes(table)
            dynamodb.create_table(**table)
        for bucket in (settings.content_bucket, settings.logs_bucket, settings.models_bucket):
            s3.create_bucket(Bucket=bucket)
        return settings

    return make


def _without_new_indexes(table: dict[str, Any]) -> dict[str, Any]:
    """Return a table as the version before this one made it."""
    new = {"by_status", "by_owner", "by_owner_and_status", "unbilled"}
    new.add("by_status_and_week")
    known = [i for i in table.get("GlobalSecondaryIndexes", ()) if i["IndexName"] not in new]
    keyed = [table["KeySchema"], *(index["KeySchema"] for index in known)]
    used = {part["AttributeName"] for schema in keyed for part in schema}
    older = {key: value for key, value in table.items() if key != "GlobalSecondaryIndexes"}
    if known:
        older["GlobalSecondaryIndexes"] = known
    older["AttributeDefinitions"] = [
        item for item in table["AttributeDefinitions"] if item["AttributeName"] in used
    ]
    return older


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings()


@pytest.fixture
def records(dynamodb: Any, settings: Settings) -> RecordStore:
    return RecordStore(dynamodb, settings)
