"""Budgets and meters on a real DynamoDB wire, each test with tables of its own."""

from __future__ import annotations

import uuid
from typing import Any

import boto3
import pytest
from botocore.config import Config

from touchstone.settings import Settings
from touchstone.stack.provision import build_tables
from touchstone.stores.meter import Meter
from touchstone.stores.money import Budgets

THREADS = 20


def pytest_collection_modifyitems(items):
    for item in items:
        if "/tests/integration/money/" in str(item.path):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def dynamodb(ministack: str) -> Any:
    """A client that so many threads may use at once."""
    return boto3.client(
        "dynamodb",
        endpoint_url=ministack,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(max_pool_connections=THREADS + 5),
    )


@pytest.fixture
def settings(dynamodb: Any) -> Settings:
    """Names of tables that are there and empty."""
    names = {name: f"{name}-{uuid.uuid4().hex[:12]}" for name in ("budgets_table", "meter_table")}
    settings = Settings(**names)
    for table in build_tables(settings):
        if table["TableName"] in names.values():
            dynamodb.create_table(**table)
    return settings


@pytest.fixture
def budgets(dynamodb: Any, settings: Settings) -> Budgets:
    return Budgets(dynamodb, settings)


@pytest.fixture
def meter(dynamodb: Any, settings: Settings) -> Meter:
    return Meter(dynamodb, settings)
