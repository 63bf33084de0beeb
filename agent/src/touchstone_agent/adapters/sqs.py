"""The queues: botocore's SQS client with its errors translated once."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import create_loader

from touchstone_agent.protocol.errors import ConfigurationError, TransientError
from touchstone_agent.settings import SqsSettings

VISIBILITY_SECONDS = 5
"""Handling a message is a journal write and a delete. What a dead agent had received is hidden, and
its whole group with it, until this has passed. A START that gets a GPU takes as long as the driver
does; it comes again meanwhile, and changes nothing more."""

_MISSING = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"})
_STALE_RECEIPT = frozenset({"ReceiptHandleIsInvalid", "InvalidParameterValue"})


@dataclass(frozen=True, kw_only=True)
class Received:
    """
    A message from a queue.

    :param message_id: The queue's id of it.
    :param receipt: With which to delete it.
    :param body: Its text.
    :param group: Its message group, inside which the order counts.
    """

    message_id: str
    receipt: str
    body: str
    group: str = ""


class _Catalogue:
    """
    botocore's descriptions of AWS, which a client needs when it is built.

    A client keeps its loader, and with it what the loader has read: every service's endpoints in
    every region, 4 MB of an idle agent.
    """

    def __init__(self) -> None:
        self._loader = create_loader()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def forget(self) -> None:
        """Give back what was read; what is asked for later is read again."""
        self._loader = create_loader()
        # Client and session know each other: only the collector frees them, before more is loaded.
        gc.collect()


class Queues:
    """
    The queues by name; safe to use from several threads.

    :param settings: How to reach them.
    :raises ConfigurationError: If AWS's libraries cannot make sense of the settings.
    """

    def __init__(self, settings: SqsSettings) -> None:
        session = botocore.session.Session(profile=settings.profile)
        catalogue = _Catalogue()
        session.register_component("data_loader", catalogue)
        if settings.credentials_file is not None:
            session.set_config_variable("credentials_file", str(settings.credentials_file))
        try:
            # botocore's own retries are off: the loops above it back off with a cap, for ever.
            self._client: Any = session.create_client(
                "sqs",
                region_name=settings.region,
                endpoint_url=settings.endpoint_url,
                config=Config(
                    connect_timeout=5,
                    read_timeout=30,
                    retries={"total_max_attempts": 1, "mode": "standard"},
                    max_pool_connections=4,
                ),
            )
        except (BotoCoreError, ValueError) as error:
            raise ConfigurationError(f"sqs settings: {error}") from error
        del session
        catalogue.forget()
        self._urls: dict[str, str] = {}

    def receive(self, queue: str, *, wait_seconds: int = 20) -> tuple[Received, ...]:
        """
        Wait for messages; they stay on the queue until deleted.

        :param queue: The queue's name.
        :param wait_seconds: How long to wait for the first one.
        :raises TransientError: If the queue cannot be reached or does not exist.
        """
        answer = self._call(
            "receive_message",
            queue,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=wait_seconds,
            VisibilityTimeout=VISIBILITY_SECONDS,
            AttributeNames=["MessageGroupId"],
        )
        return tuple(
            Received(
                message_id=m["MessageId"],
                receipt=m["ReceiptHandle"],
                body=m["Body"],
                group=m.get("Attributes", {}).get("MessageGroupId", ""),
            )
            for m in answer.get("Messages", ())
        )

    def delete(self, queue: str, receipt: str) -> None:
        """
        Delete a message.

        :raises TransientError: If the queue cannot be reached; the message will come again.
        """
        self._call("delete_message", queue, ReceiptHandle=receipt)

    def send(self, queue: str, *, group: str, message_id: str, body: str) -> None:
        """
        Put a message on a queue; the same message id twice within five minutes is one message.

        :param group: Messages of one group keep their order.
        :raises TransientError: If the queue cannot be reached or does not exist.
        """
        self._call(
            "send_message",
            queue,
            MessageBody=body,
            MessageGroupId=group,
            MessageDeduplicationId=message_id,
        )

    def check(self, queue: str) -> None:
        """
        Raise unless a queue can be reached.

        :raises TransientError: If it cannot be reached or does not exist.
        """
        self._urls.pop(queue, None)
        self._find_url(queue)

    def _find_url(self, queue: str) -> str:
        url = self._urls.get(queue)
        if url is None:
            try:
                url = str(self._client.get_queue_url(QueueName=queue)["QueueUrl"])
            except (BotoCoreError, ClientError) as error:
                raise _translate(error, queue) from error
            self._urls[queue] = url
        return url

    def _call(self, method: str, queue: str, **arguments: Any) -> dict[str, Any]:
        url = self._find_url(queue)
        try:
            answer: dict[str, Any] = getattr(self._client, method)(QueueUrl=url, **arguments)
        except (BotoCoreError, ClientError) as error:
            if method == "delete_message" and _code(error) in _STALE_RECEIPT:
                return {}  # visible again already; its next delivery is handled like any repeat
            if _code(error) in _MISSING:
                self._urls.pop(queue, None)
            raise _translate(error, queue) from error
        return answer


def find_endpoint(settings: SqsSettings) -> str:
    """
    Return the address of all queues; no credentials are looked for.

    :raises ConfigurationError: If AWS's libraries cannot make sense of the settings.
    """
    if settings.endpoint_url is not None:
        return settings.endpoint_url
    try:
        client: Any = botocore.session.Session().create_client(
            "sqs",
            region_name=settings.region,
            aws_access_key_id="none",
            aws_secret_access_key="none",  # noqa: S106 (so that no credentials are looked for)
        )
    except (BotoCoreError, ValueError) as error:
        raise ConfigurationError(f"sqs settings: {error}") from error
    return str(client.meta.endpoint_url)


def _code(error: Exception) -> str:
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else ""


def _translate(error: Exception, queue: str) -> TransientError:
    code = _code(error)
    if code in _MISSING:
        return TransientError(
            f"queue {queue} does not exist: enrol this server on the control plane",
            retry_after=10,
        )
    return TransientError(f"queue {queue}: {code or type(error).__name__}")
