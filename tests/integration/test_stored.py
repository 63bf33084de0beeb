"""A look for something that must not be stored finds it wherever it is."""

from __future__ import annotations

import base64
import struct

import boto3
import pytest
from botocore.config import Config

from fakes.canaries import Canaries
from fakes.stored import list_folder, list_stored

pytestmark = pytest.mark.integration

SECRET = [0.123456789012, 1.987654321098]
PACKED = struct.pack("<2d", *SECRET)


@pytest.fixture(scope="module")
def build_client(ministack):
    def build(service):
        return boto3.client(
            service,
            endpoint_url=ministack,
            region_name="eu-central-1",
            aws_access_key_id="canaries",
            aws_secret_access_key="test",
            config=Config(s3={"addressing_style": "path"}),
        )

    return build


def test_a_number_is_found_in_an_object_a_record_and_a_message(build_client):
    s3, dynamodb, sqs = map(build_client, ("s3", "dynamodb", "sqs"))
    s3.create_bucket(
        Bucket="canaries", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
    )
    s3.put_object(Bucket="canaries", Key="a/b", Body=b"x" + PACKED)
    s3.put_object(Bucket="canaries", Key="c", Body=b"1.23456788")
    dynamodb.create_table(
        TableName="canaries",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    dynamodb.put_item(TableName="canaries", Item={"pk": {"S": "n"}, "v": {"N": str(SECRET[1])}})
    dynamodb.put_item(TableName="canaries", Item={"pk": {"S": "b"}, "v": {"B": PACKED}})
    dynamodb.put_item(TableName="canaries", Item={"pk": {"S": "none"}, "v": {"N": "1.5"}})
    queue = sqs.create_queue(QueueName="canaries")["QueueUrl"]
    sqs.send_message(QueueUrl=queue, MessageBody=base64.b64encode(PACKED).decode())
    canaries = Canaries(SECRET)

    looked_at = [each for each in list_stored(build_client) if "canaries" in each[0]]

    assert len(looked_at) == 6
    found = [name for name, body in looked_at if canaries.find(body)]
    assert [name.split(" ")[0] for name in found] == ["objects", "records", "records", "messages"]
    assert found[0] == "objects of canaries/a/b"
    # Nothing is taken away by looking.
    assert len([each for each in list_stored(build_client) if "canaries" in each[0]]) == 6


def test_a_folder_is_looked_through_but_for_what_is_its_owners(tmp_path):
    for path in ("logs/a.log", "agents/box/private/x", "agents/box/journal.db"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(PACKED)

    found = dict(list_folder(tmp_path, but={tmp_path / "agents/box/private"}))

    assert found == {"logs/a.log": PACKED, "agents/box/journal.db": PACKED}


@pytest.mark.parametrize("length", range(10))
def test_what_is_short_or_empty_holds_none(length):
    assert Canaries(SECRET).find(b"x" * length) is None
    assert Canaries(SECRET).find(b"x" * length + PACKED[:8])


def test_a_single_float_that_others_have_by_chance_is_none_of_theirs_but_two_in_a_row_are():
    series = [0.5964503884315491, 0.47280508279800415, 0.5123456120491028]
    rows = Canaries(series, in_pairs=True)
    first, second, third = (b"%.12f" % value for value in series)
    doubles = struct.pack("<3d", *series)

    assert rows.find(b"2018-01-01," + first + b"," + second) == second[:10]
    assert rows.find(first + b"\n" + third) is None
    assert rows.find(second + b"," + first) is None
    assert rows.find(doubles[:16]) == doubles[8:16]
    assert rows.find(doubles[:8] + doubles[16:]) is None
    assert Canaries(series).find(third) == third[:10]
