"""Items of DynamoDB's answers reach us as botocore would have left them."""

from __future__ import annotations

import io
import json

import boto3
import pytest
from botocore.awsrequest import AWSResponse

from touchstone.stores.items import keep_items
from touchstone.stores.tables import from_item

ITEM = {
    "id": {"S": "s-1"},
    "many": {"L": [{"N": "1"}, {"N": "2.50"}, {"N": "1E+2"}, {"NULL": True}]},
    "table": {"M": {"yes": {"BOOL": True}, "no": {"BOOL": False}, "set": {"SS": ["a", "b"]}}},
}
READ = {
    "id": "s-1",
    "many": [1, 2.5, 100, None],
    "table": {"yes": True, "no": False, "set": ["a", "b"]},
}


@pytest.fixture
def answer():
    """Return what a client gives for an answer on the wire."""

    def ask(operation, body, status=200, *, is_kept=True, **options):
        client = boto3.client(
            "dynamodb", region_name="x", aws_access_key_id="a", aws_secret_access_key="b"
        )
        if is_kept:
            keep_items(client)
            keep_items(client)
        raw = io.BytesIO(json.dumps(body).encode())
        raw.stream = lambda **_: [raw.getvalue()]
        headers = {"Content-Type": "application/x-amz-json-1.0"}
        client.meta.events.register(
            "before-send", lambda **_: AWSResponse("http://x", status, headers, raw)
        )
        found = getattr(client, operation)(**options)
        found.pop("ResponseMetadata")
        return found

    return ask


@pytest.mark.parametrize(
    ("operation", "body", "options"),
    [
        ("get_item", {"Item": ITEM}, {"TableName": "t", "Key": {"id": {"S": "s-1"}}}),
        ("get_item", {}, {"TableName": "t", "Key": {"id": {"S": "s-1"}}}),
        ("scan", {"Items": [ITEM] * 2, "Count": 2, "ScannedCount": 2}, {"TableName": "t"}),
        (
            "query",
            {"Items": [ITEM], "Count": 1, "LastEvaluatedKey": {"id": {"S": "s-1"}}},
            {"TableName": "t", "KeyConditions": {}},
        ),
        (
            "batch_get_item",
            {"Responses": {"t": [ITEM]}, "UnprocessedKeys": {}},
            {"RequestItems": {"t": {"Keys": [{"id": {"S": "s-1"}}]}}},
        ),
    ],
)
def test_an_answer_is_the_same_as_botocores(answer, operation, body, options):
    assert answer(operation, body, **options) == answer(operation, body, is_kept=False, **options)


def test_a_refusal_is_still_one(answer):
    body = {"__type": "x#ResourceNotFoundException", "message": "no such table"}

    with pytest.raises(Exception, match="no such table"):
        answer("scan", body, 400, TableName="t")


def test_an_item_is_read_as_json():
    assert from_item(ITEM) == READ
    assert [type(each) for each in from_item(ITEM)["many"][:3]] == [int, float, int]
