"""Receives agents' events, and opens what a server of ours has sealed."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from touchstone.core.records.servers import ServerEntry
from touchstone.core.records.stored import RecordUnreadable
from touchstone.hooks.letters import DeadLetters
from touchstone.services.troubles import Troubles
from touchstone.stores.aws import translated_errors
from touchstone.stores.records import RecordStore
from touchstone_agent.protocol.documents import parse_json
from touchstone_agent.protocol.envelope import (
    MAX_ENVELOPE_BYTES,
    EventMessage,
    load_public_key,
    open_event,
)
from touchstone_agent.protocol.errors import (
    ConfigurationError,
    MessageRefused,
    TouchstoneError,
    TransientError,
)
from touchstone_agent.protocol.words import build_line

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

log = logging.getLogger(__name__)

MAX_FAILURES = 5
"""An event that fails so often, and not because a store is away, is set aside."""

_LONG_POLL_SECONDS = 20
"""As long as SQS allows; a message ends it at once."""
_BACK_OFF_SECONDS = 5.0
"""After a queue could not be asked."""
_HEARING_SECONDS = 60.0
"""Three polls without an answer: then silence of a server says nothing of it."""
_MOST_FAILING = 10_000
"""Messages whose failures are counted; the one that failed longest ago is forgotten."""

KEYS_LIFE = timedelta(seconds=30)
"""How long a key that was revoked may still be honoured."""
UNKNOWN_LIFE = timedelta(seconds=5)
"""How long nobody looks again for the key of a server that has none: a stranger's messages must
not cost a reading each."""
_MOST_UNKNOWN = 1_000
"""Names that are remembered as unknown; nobody looks for more of them in that time."""


class Handler(Protocol):
    """Acts on messages."""

    def handle(self, text: str) -> str:
        """Act on one message."""
        ...

    def give_up(self, text: str, error: Exception) -> str:
        """Do for a message that failed again and again what must not wait for it."""
        ...


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
        sqs: SQSClient,
        queue: str,
        handler: Handler,
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

    def _is_settled(self, message: MessageTypeDef) -> bool:
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

    def _count_failure(self, message: MessageTypeDef, error: Exception) -> bool:
        number = message["MessageId"]
        failed = self._failures.pop(number, 0) + 1
        self._troubles.note("act on event", number, error)
        if failed < MAX_FAILURES:
            self._failures[number] = failed
            if len(self._failures) > _MOST_FAILING:
                self._failures.popitem(last=False)
            return False
        return self._set_aside(message, error)

    def _set_aside(self, message: MessageTypeDef, error: Exception) -> bool:
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


class EventOpener:
    """
    Checks messages by the keys that servers have on record.

    :param records: The records.
    :param env: The environment whose messages are taken.
    :param clock: The time, UTC.
    :param troubles: Where is counted which key makes no sense.
    :param on_read: Told of all servers whenever their keys were read.
    """

    def __init__(
        self,
        records: RecordStore,
        *,
        env: str,
        clock: Callable[[], datetime],
        troubles: Troubles,
        on_read: Callable[[Sequence[ServerEntry]], None],
    ) -> None:
        self._records = records
        self._env = env
        self._clock = clock
        self._troubles = troubles
        self._on_read = on_read
        self._keys: dict[str, Ed25519PublicKey] = {}
        self._read_at: datetime | None = None
        self._unknown: dict[str, datetime] = {}

    def open(self, text: str) -> EventMessage:
        """
        Return the message that a text is.

        :raises MessageRefused: If it must be dropped: forged, expired, malformed, not ours.
        """
        now = self._clock()
        if self._read_at is None or now - self._read_at > KEYS_LIFE:
            self._read(now)
        try:
            return self._try_open(text)
        except RecursionError as error:
            raise MessageRefused("it is nested too deeply to be read") from error
        except MessageRefused:
            # A server enrolled since the last look has a key that is not known yet.
            if not self._learn_key(text, now):
                raise
        return self._try_open(text)

    def _learn_key(self, text: str, now: datetime) -> bool:
        """Look for the key of a message's server; return whether there is one, and it is new."""
        kid = _find_kid(text)
        if kid is None or kid in self._keys:
            return False
        self._unknown = {name: until for name, until in self._unknown.items() if until > now}
        if kid in self._unknown or len(self._unknown) >= _MOST_UNKNOWN:
            return False
        try:
            found = self._records.find_server(kid)
            self._keys[kid] = load_public_key((found and found.public_key) or "")
        except (ConfigurationError, RecordUnreadable):
            self._unknown[kid] = now + UNKNOWN_LIFE
            return False
        return True

    def _read(self, now: datetime) -> None:
        entries = self._records.list_servers()
        keys = {}
        for entry in entries:
            # Also of one whose record makes no sense: it may still say how its attempts end.
            if entry.public_key:
                # One that is no key makes one server unheard, and not all of them.
                with self._troubles.guard("read the key of", entry.name):
                    keys[entry.name] = load_public_key(entry.public_key)
        self._keys = keys
        self._read_at = now
        self._on_read(entries)

    def _try_open(self, text: str) -> EventMessage:
        return open_event(text, keys=self._keys, env=self._env, now=self._clock())


def _find_kid(text: str) -> str | None:
    """Return the server whose key a message names; ``None`` if no server can be called so."""
    try:
        kid = parse_json(text, max_bytes=MAX_ENVELOPE_BYTES)["kid"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    is_name = isinstance(kid, str) and kid.isascii() and 0 < len(kid) <= 255 and kid[0] != "#"
    return kid if is_name else None
