"""Queues: made as they must be, and taken away."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from touchstone.hooks.letters import build_dead_letter_queue
from touchstone.stores.aws import get_error_code

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

DAY_SECONDS = 86_400
MAX_RECEIVES = 1000
"""A store that is down for hours must cost no event. What fails for another reason the dispatcher
sets aside itself; this is for what it does not survive."""
MAX_COMMAND_RECEIVES = 12
"""An agent needs no store to take a command in: what it has received so often it never will, and it
has said so by then."""
COMMAND_DAYS = 4
_DELETED_SECONDS = 65.0
"""For which AWS keeps a deleted queue's name from being used again."""
_MISSING = frozenset({"QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"})
_JUST_DELETED = frozenset({"QueueDeletedRecently", "AWS.SimpleQueueService.QueueDeletedRecently"})
_FIFO = {
    "FifoQueue": "true",
    "ContentBasedDeduplication": "false",
    # A group is one task: many tasks must not share a queue's basic 300 requests per second.
    "DeduplicationScope": "messageGroup",
    "FifoThroughputLimit": "perMessageGroupId",
}


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


def ensure_command_queue(sqs: SQSClient, name: str) -> Iterator[tuple[str, bool]]:
    """Make a queue of commands to one server as :func:`ensure_queue` does."""
    yield from ensure_queue(
        sqs,
        name,
        retention_seconds=COMMAND_DAYS * DAY_SECONDS,
        max_receives=MAX_COMMAND_RECEIVES,
    )


def ensure_queue(
    sqs: SQSClient,
    name: str,
    *,
    retention_seconds: int,
    visibility_seconds: int = 30,
    max_receives: int = MAX_RECEIVES,
) -> Iterator[tuple[str, bool]]:
    """Make a queue, and that of its dead letters, if missing; yield each with whether it was."""
    dead_letter = build_dead_letter_queue(name)
    url = find_queue(sqs, dead_letter)
    yield dead_letter, url is None
    if url is None:
        days = {"MessageRetentionPeriod": str(14 * DAY_SECONDS)}
        url = _create(sqs, dead_letter, {**_FIFO, **days})
    is_missing = find_queue(sqs, name) is None
    if is_missing:
        arn = find_arn(sqs, url)
        attributes = build_queue_attributes(
            retention_seconds=retention_seconds,
            visibility_seconds=visibility_seconds,
            dead_letter_arn=arn,
            max_receives=max_receives,
        )
        _create(sqs, name, attributes)
    yield name, is_missing


def find_arn(sqs: SQSClient, url: str) -> str:
    """Return how AWS's policies name a queue."""
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    return found["Attributes"]["QueueArn"]


def find_queue(sqs: SQSClient, name: str) -> str | None:
    """Return a queue's URL; ``None`` if there is no such queue."""
    try:
        return sqs.get_queue_url(QueueName=name)["QueueUrl"]
    except ClientError as error:
        if get_error_code(error) in _MISSING:
            return None
        raise


def remove_queue(sqs: SQSClient, name: str) -> bool:
    """Delete a queue and that of its dead letters; return whether there was any."""
    found = [find_queue(sqs, each) for each in (name, build_dead_letter_queue(name))]
    for url in filter(None, found):
        try:
            sqs.delete_queue(QueueUrl=url)
        except ClientError as error:
            if get_error_code(error) not in _MISSING:
                raise
    return any(found)


def _create(sqs: SQSClient, name: str, attributes: dict[str, str]) -> str:
    deadline = time.monotonic() + _DELETED_SECONDS
    while True:
        try:
            return sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]  # type: ignore[arg-type]
        except ClientError as error:
            if get_error_code(error) not in _JUST_DELETED or time.monotonic() > deadline:
                raise
            time.sleep(5)
