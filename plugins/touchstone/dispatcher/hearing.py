"""Receives agents' events."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from touchstone.dispatcher.events import EventHandler
from touchstone.hooks.aws import translated_errors
from touchstone_agent.protocol.errors import MessageRefused, TouchstoneError

log = logging.getLogger(__name__)

_LONG_POLL_SECONDS = 20
_BACK_OFF_SECONDS = 5.0
_HEARING_SECONDS = 60.0


class EventLoop:
    """
    Receives agents' events and hands them to the handler.

    A message is deleted only after it was acted on, or refused for good; what fails for now
    comes again when its visibility ends.

    :param sqs: An SQS client.
    :param queue: Name of the event queue.
    :param handler: Acts on one message.
    :param stopping: Set when the process should end.
    :param monotonic: Seconds of a clock that never goes back.
    """

    def __init__(
        self,
        sqs: Any,
        queue: str,
        handler: EventHandler,
        stopping: threading.Event,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sqs = sqs
        self._queue = queue
        self._handler = handler
        self._stopping = stopping
        self._monotonic = monotonic
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
            try:
                if url is None:
                    with translated_errors(f"finding queue {self._queue}"):
                        url = self._sqs.get_queue_url(QueueName=self._queue)["QueueUrl"]
                self._receive(url)
            except TouchstoneError as error:
                log.warning("events cannot be received, trying again: %s", error)
                self._stopping.wait(_BACK_OFF_SECONDS)

    def _receive(self, url: str) -> None:
        with translated_errors(f"receiving from {self._queue}"):
            answer = self._sqs.receive_message(
                QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=_LONG_POLL_SECONDS
            )
        self.received_at = self._monotonic()
        is_failing = False
        for message in answer.get("Messages", ()):
            # What fails for now must not be overtaken by later events of this batch.
            if is_failing:
                continue
            try:
                log.debug("%s", self._handler.handle(message["Body"]))
            except MessageRefused as error:
                log.warning("event %s dropped: %s", message["MessageId"], error)
            except TouchstoneError as error:
                log.warning("event %s comes again: %s", message["MessageId"], error)
                is_failing = True
                continue
            except Exception:
                # One event that we cannot handle must not keep all others from being heard.
                log.exception("event %s comes again", message["MessageId"])
                is_failing = True
                continue
            with translated_errors(f"deleting from {self._queue}"):
                self._sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
