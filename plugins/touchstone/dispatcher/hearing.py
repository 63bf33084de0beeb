"""Receives agents' events."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from touchstone.dispatcher.events import EventHandler
from touchstone.dispatcher.troubles import Troubles
from touchstone.hooks.aws import translated_errors
from touchstone.hooks.letters import DeadLetters
from touchstone_agent.protocol.errors import MessageRefused, TouchstoneError, TransientError
from touchstone_agent.protocol.words import build_line

log = logging.getLogger(__name__)

MAX_FAILURES = 5
"""An event that fails so often, and not because a store is away, is set aside."""

_LONG_POLL_SECONDS = 20
_BACK_OFF_SECONDS = 5.0
_HEARING_SECONDS = 60.0
_MOST_FAILING = 10_000


class EventLoop:
    """
    Receives agents' events and hands them to the handler.

    A message is deleted only after it was acted on, or refused for good. What fails because a store
    is away comes again when its visibility ends, for as long as that takes; what fails for another
    reason is set aside with the dead letters after a few times. Meanwhile only later events of the
    same group wait, which is one task's, or one server's.

    :param sqs: An SQS client.
    :param queue: Name of the event queue.
    :param handler: Acts on one message.
    :param stopping: Set when the process should end.
    :param monotonic: Seconds of a clock that never goes back.
    :param troubles: Where failures are counted.
    """

    def __init__(
        self,
        sqs: Any,
        queue: str,
        handler: EventHandler,
        stopping: threading.Event,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        troubles: Troubles | None = None,
    ) -> None:
        self._sqs = sqs
        self._queue = queue
        self._handler = handler
        self._stopping = stopping
        self._monotonic = monotonic
        self._troubles = troubles or Troubles()
        self._letters = DeadLetters(sqs)
        self._failures: OrderedDict[str, int] = OrderedDict()
        self.received_at: float | None = None

    @property
    def is_hearing(self) -> bool:
        """Tell whether the queue was asked successfully within the last minute."""
        heard = self.received_at
        return heard is not None and self._monotonic() - heard < _HEARING_SECONDS

    def run(self) -> None:
        """Work until told to stop; faults of the stores are waited out."""
        url: str | None = None
        while not self._stopping.is_set():
            with self._troubles.guard("receive events from", self._queue) as guard:
                if url is None:
                    with translated_errors(f"finding queue {self._queue}"):
                        url = self._sqs.get_queue_url(QueueName=self._queue)["QueueUrl"]
                self._receive(url)
            if guard.is_failed:
                self._stopping.wait(_BACK_OFF_SECONDS)

    def _receive(self, url: str) -> None:
        with translated_errors(f"receiving from {self._queue}"):
            answer = self._sqs.receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=10,
                WaitTimeSeconds=_LONG_POLL_SECONDS,
                AttributeNames=["MessageGroupId"],
            )
        self.received_at = self._monotonic()
        waiting: set[str] = set()
        for message in answer.get("Messages", ()):
            # What fails for now must not be overtaken by later events of its own group.
            group = message.get("Attributes", {}).get("MessageGroupId", "")
            if group in waiting:
                continue
            if not self._is_settled(message):
                waiting.add(group)
                continue
            with (
                self._troubles.guard("delete what was heard of", group) as guard,
                translated_errors(f"deleting from {self._queue}"),
            ):
                self._sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            if guard.is_failed:
                waiting.add(group)  # it comes again, and so before what is behind it

    def _is_settled(self, message: dict[str, Any]) -> bool:
        """Act on a message; tell whether nothing is left to be done about it."""
        number = message["MessageId"]
        try:
            log.debug("%s", self._handler.handle(message["Body"]))
        except MessageRefused as error:
            log.warning("event %s dropped: %s", number, error)
            self._troubles.note("read an event", "", error, is_logged=True)
        except TransientError as error:
            log.warning("event %s comes again: %s", number, error)
            return False
        except Exception as error:
            return self._count_failure(message, error)
        self._failures.pop(number, None)
        return True

    def _count_failure(self, message: dict[str, Any], error: Exception) -> bool:
        number = message["MessageId"]
        failed = self._failures.pop(number, 0) + 1
        self._troubles.note("act on event", number, error)
        if failed < MAX_FAILURES:
            self._failures[number] = failed
            if len(self._failures) > _MOST_FAILING:
                self._failures.popitem(last=False)
            return False
        return self._set_aside(message, error)

    def _set_aside(self, message: dict[str, Any], error: Exception) -> bool:
        """Do without a message that fails for ever; tell whether it is kept elsewhere by now."""
        number = message["MessageId"]
        with self._troubles.guard("do without event", number):
            what = self._handler.give_up(message["Body"], error)
            log.error("event %s is set aside: %s", number, what)
        try:
            reason = build_line(f"failed {MAX_FAILURES} times: {error!r}")
            self._letters.bury(self._queue, message, reason)
        except TouchstoneError as trouble:
            # It is tried again, and at last the queue itself moves it.
            self._troubles.note("set aside event", number, trouble)
            return False
        self._troubles.settle("act on event", number)
        return True
