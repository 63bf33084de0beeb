from __future__ import annotations

import json

import httpx
import pytest

from touchstone.settings import Settings
from touchstone.stack.provision import (
    build_queue_attributes,
    build_tables,
    ensure_experiment,
)
from touchstone_agent.protocol.errors import TransientError


@pytest.fixture
def tables():
    return {table["TableName"]: table for table in build_tables(Settings())}


def keys_of(table):
    return [part["AttributeName"] for part in table["KeySchema"]]


def test_tables_have_the_keys_that_records_are_read_by(tables) -> None:
    assert {name: keys_of(table) for name, table in tables.items()} == {
        "TouchstoneSubmissions": ["submission_id"],
        "TouchstoneTasks": ["submission_id", "task_id"],
        "ModelPostTrainEvaluation": ["model_id"],
        "TouchstoneServers": ["server"],
        "TouchstoneBudgets": ["scope"],
        "TouchstoneMeter": ["pod", "entry"],
    }


@pytest.mark.parametrize(
    ("table", "indexes"),
    [
        ("ModelPostTrainEvaluation", {"model_group": ["model_group_id", "created_at"]}),
        ("TouchstoneBudgets", {"open": ["open", "scope"]}),
        (
            "TouchstoneMeter",
            {"month": ["month", "pod"], "submission": ["submission_id", "pod"]},
        ),
    ],
)
def test_records_are_found_by_what_else_is_asked_for(tables, table, indexes) -> None:
    found = tables[table]["GlobalSecondaryIndexes"]
    assert {index["IndexName"]: keys_of(index) for index in found} == indexes


def test_only_key_attributes_are_declared(tables) -> None:
    """DynamoDB refuses a declared attribute that no key uses."""
    for table in tables.values():
        indexes = table.get("GlobalSecondaryIndexes", [])
        used = {name for keyed in (table, *indexes) for name in keys_of(keyed)}
        assert {a["AttributeName"] for a in table["AttributeDefinitions"]} == used


def test_a_message_that_cannot_be_handled_goes_to_the_dead_letter_queue() -> None:
    attributes = build_queue_attributes(
        retention_seconds=60, visibility_seconds=10, dead_letter_arn="arn:x"
    )
    assert json.loads(attributes["RedrivePolicy"]) == {
        "deadLetterTargetArn": "arn:x",
        "maxReceiveCount": "1000",
    }
    assert attributes["ContentBasedDeduplication"] == "false"
    assert set(map(type, attributes.values())) == {str}


@pytest.mark.parametrize(
    ("found", "created", "is_new"),
    [
        ((200, {"experiment": {}}), None, False),
        ((404, {"error_code": "RESOURCE_DOES_NOT_EXIST"}), (200, {"experiment_id": "1"}), True),
        (
            (404, {"error_code": "RESOURCE_DOES_NOT_EXIST"}),
            (400, {"error_code": "RESOURCE_ALREADY_EXISTS"}),
            True,
        ),
    ],
)
def test_an_experiment_is_created_when_missing(found, created, is_new) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        status, body = found if request.method == "GET" else created
        return httpx.Response(status, json=body)

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        made = ensure_experiment("http://mlflow", "touchstone_service", client)
    assert made.created is is_new


def test_a_server_that_refuses_is_not_taken_for_success() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(404 if request.method == "GET" else 500, json={})

    with (
        httpx.Client(transport=httpx.MockTransport(answer)) as client,
        pytest.raises(TransientError, match="touchstone_service"),
    ):
        ensure_experiment("http://mlflow", "touchstone_service", client)
