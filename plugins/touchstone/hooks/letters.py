"""Queues of dead letters: what could not be dealt with is put there, and counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from touchstone.stores.aws import translated_errors

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType
    from mypy_boto3_sqs.type_defs import MessageTypeDef

_KEPT_REASON = 500


def build_dead_letter_queue(queue: str) -> str:
    """Return the name of the queue that keeps what a queue's receiver could not deal with."""
    return queue.replace(".fifo", "-dlq.fifo")


class DeadLetters:
    """
    Speaks to the queues of dead letters.

    :param sqs: An SQS client.
    """

    def __init__(self, sqs: SQSClient) -> None:
        self._sqs = sqs
        self._urls: dict[str, str] = {}

    def bury(self, queue: str, message: MessageTypeDef, reason: str) -> None:
        """
        Put a message beside its queue, with the reason; the caller then deletes it there.

        :param queue: The queue it was received from.
        :param message: As it was received, with its group.
        :param reason: One line.
        :raises TransientError: If the queue does not answer.
        :raises PermanentError: If there is none: the message stays where it is.
        """
        letters = build_dead_letter_queue(queue)
        with translated_errors(f"setting a message of {queue} aside"):
            self._sqs.send_message(
                QueueUrl=self._find_url(letters),
                MessageBody=message["Body"],
                MessageGroupId=message.get("Attributes", {}).get("MessageGroupId") or "unknown",
                # A second try within five minutes is the same letter.
                MessageDeduplicationId=message["MessageId"],
                MessageAttributes={
                    "reason": {"DataType": "String", "StringValue": reason[:_KEPT_REASON] or "?"}
                },
            )

    def count(self, queue: str) -> int:
        """
        Return how many dead letters of a queue there are, those somebody is looking at included.

        :raises TransientError: If the queue does not answer.
        :raises PermanentError: If there is none.
        """
        letters = build_dead_letter_queue(queue)
        names: list[QueueAttributeNameType] = [
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesNotVisible",
        ]
        with translated_errors(f"counting {letters}"):
            found = self._sqs.get_queue_attributes(
                QueueUrl=self._find_url(letters), AttributeNames=names
            )["Attributes"]
        return sum(int(found.get(name) or 0) for name in names)

    def _find_url(self, name: str) -> str:
        if name not in self._urls:
            self._urls[name] = self._sqs.get_queue_url(QueueName=name)["QueueUrl"]
        return self._urls[name]
