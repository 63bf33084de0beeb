from __future__ import annotations

import itertools
import json
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from touchstone.hooks.queues import build_queue_attributes
from touchstone.settings import Settings
from touchstone.stack.provision import (
    _ensure_table,
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
        "TouchstoneEvents": ["event", "entry"],
    }


@pytest.mark.parametrize(
    ("table", "indexes"),
    [
        (
            "TouchstoneSubmissions",
            {
                "at_work": ["at_work", "submission_id"],
                "by_status": ["status", "created_at"],
                "by_owner": ["submitted_by", "created_at"],
                "by_owner_and_status": ["submitted_by", "status", "created_at"],
            },
        ),
        (
            "TouchstoneTasks",
            {
                "at_work": ["at_work", "submission_id"],
                "by_status": ["status", "created_at"],
                "by_status_and_week": ["status", "week", "created_at"],
            },
        ),
        ("ModelPostTrainEvaluation", {"model_group": ["model_group_id", "created_at"]}),
        ("TouchstoneBudgets", {"open": ["open", "scope"]}),
        (
            "TouchstoneMeter",
            {
                "month": ["month", "pod"],
                "submission": ["submission_id", "pod"],
                "unbilled": ["unbilled", "at"],
            },
        ),
    ],
)
def test_records_are_found_by_what_else_is_asked_for(tables, table, indexes) -> None:
    found = tables[table]["GlobalSecondaryIndexes"]
    assert {index["IndexName"]: keys_of(index) for index in found} == indexes


def test_of_several_attributes_that_are_asked_for_together_only_the_last_is_an_order(
    tables,
) -> None:
    (index,) = (
        index
        for index in tables["TouchstoneSubmissions"]["GlobalSecondaryIndexes"]
        if index["IndexName"] == "by_owner_and_status"
    )
    assert [part["KeyType"] for part in index["KeySchema"]] == ["HASH", "HASH", "RANGE"]


class GrowingTable:
    """
    A table of an earlier version at AWS, which fills one new index at a time and takes its time.

    :ivar made: The indexes that were asked for.
    """

    def __init__(self, definition: dict[str, Any], *, looks: int = 3) -> None:
        self._definition = definition
        self._looks = looks
        self._left = 0
        self.made: list[str] = []

    def describe_table(self, **request: str) -> dict[str, Any]:
        assert request == {"TableName": self._definition["TableName"]}
        self._left = max(0, self._left - 1)
        indexes = [dict(index) for index in self._definition.get("GlobalSecondaryIndexes", [])]
        if indexes:
            indexes[-1]["IndexStatus"] = "CREATING" if self._left else "ACTIVE"
        status = "UPDATING" if self._left else "ACTIVE"
        return {"Table": {"TableStatus": status, "GlobalSecondaryIndexes": indexes}}

    def update_table(self, **request: Any) -> None:
        assert not self._left, "AWS fills one index at a time"
        (change,) = request["GlobalSecondaryIndexUpdates"]
        index = change["Create"]
        # DynamoDB wants the definition of each of its attributes, known or not, and of no other.
        declared = {item["AttributeName"] for item in request["AttributeDefinitions"]}
        assert declared == {part["AttributeName"] for part in index["KeySchema"]}
        self._definition.setdefault("GlobalSecondaryIndexes", []).append(index)
        self.made.append(index["IndexName"])
        self._left = self._looks


def make_older(table: dict[str, Any], *known: str) -> dict[str, Any]:
    """Return a table as an earlier version made it, with some of its indexes only."""
    indexes = [each for each in table["GlobalSecondaryIndexes"] if each["IndexName"] in known]
    return {**table, "GlobalSecondaryIndexes": indexes}


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """How long it paused; a quarter of an hour passes between two looks at the clock."""
    paused: list[float] = []
    clock = itertools.count(step=900)
    module = SimpleNamespace(sleep=paused.append, monotonic=lambda: float(next(clock)))
    monkeypatch.setattr("touchstone.stack.provision.time", module)
    return paused


def test_a_table_of_an_earlier_version_gets_its_new_indexes_one_after_the_other(
    tables, pauses
) -> None:
    table = tables["TouchstoneSubmissions"]
    aws = GrowingTable(make_older(table, "at_work"))
    made = list(_ensure_table(aws, table))
    assert aws.made == ["by_status", "by_owner", "by_owner_and_status"]
    assert [(each.kind, each.created) for each in made] == [
        ("table", False),
        ("index", False),
        ("index", True),
        ("index", True),
        ("index", True),
    ]
    assert pauses
    assert not any(each.created for each in _ensure_table(aws, table)), "all there"


def test_an_index_that_is_still_being_filled_is_waited_for(tables, pauses) -> None:
    """Whoever reads it before would miss what is not in it yet."""
    table = tables["TouchstoneTasks"]
    aws = GrowingTable(make_older(table, "at_work", "by_status", "by_status_and_week"))
    aws._left = 4
    assert not any(each.created for each in _ensure_table(aws, table))
    assert len(pauses) == 2


@pytest.mark.usefixtures("pauses")
def test_an_index_that_takes_too_long_is_told_and_another_call_goes_on(tables) -> None:
    table = tables["TouchstoneTasks"]
    aws = GrowingTable(make_older(table, "at_work", "by_status"), looks=10)
    with pytest.raises(TransientError, match=r"by_status_and_week .*`touchstone init` again"):
        list(_ensure_table(aws, table))
    list(_ensure_table(aws, table))
    assert aws.made == ["by_status_and_week"]


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
