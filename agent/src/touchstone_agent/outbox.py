"""Everything this agent says, in one order, from one thread."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from touchstone_agent.adapters.journal import Journal, Posted
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.core.ports import Clock
from touchstone_agent.logs import Log
from touchstone_agent.protocol.envelope import EventMessage, Header, seal
from touchstone_agent.protocol.errors import TransientError
from touchstone_agent.protocol.messages import Event, PhaseChanged

PHASE_TTL = timedelta(days=14)
"""A phase stays true; the queue itself keeps nothing longer."""

NEWS_TTL = timedelta(minutes=5)
MAX_NEWS = 1000
"""What only tells of a moment: it is kept in memory, and the oldest goes first."""

log = Log("outbox")


class EventQueue(Protocol):
    """Where events go."""

    def send(self, queue: str, *, group: str, message_id: str, body: str) -> None:
        """Put a message on a queue."""
        ...


@dataclass(frozen=True, kw_only=True)
class _News:
    message_id: str
    group: str
    event: Event


class Outbox:
    """
    Sends phases in the order they happened, and of everything else the latest only.

    Phases are in the journal until the queue has them. The rest (heartbeats, progress, requests
    for grants) is worth nothing when it is old: during an outage it is replaced, not piled up.

    :param queues: The queues.
    :param queue: Name of the event queue.
    :param env: Environment.
    :param server: This server; also the name of its key.
    :param key: Its signing key.
    :param journal: From which phases are taken once they are sent.
    :param clock: The clock.
    :param epoch: This start of the agent.
    """

    def __init__(
        self,
        *,
        queues: EventQueue,
        queue: str,
        env: str,
        server: str,
        key: Ed25519PrivateKey,
        journal: Journal,
        clock: Clock,
        epoch: str,
    ) -> None:
        self._queues = queues
        self._queue = queue
        self._env = env
        self._server = server
        self._key = key
        self._journal = journal
        self._clock = clock
        self._epoch = epoch
        self._sequence = 0
        self._phases: deque[Posted] = deque()
        self._news: OrderedDict[str, _News] = OrderedDict()
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._backoff = Backoff(first_seconds=0.5, cap_seconds=15)

    def post(self, posted: Posted) -> None:
        """Send a journalled phase event."""
        with self._changed:
            self._phases.append(posted)
            self._changed.notify()

    def tell(self, key: str, event: Event, *, group: str) -> str:
        """
        Send news, in place of older news of the same key that is not sent yet.

        :param key: What it is news of.
        :param group: Message group.
        :return: The id of the message.
        """
        news = _News(message_id=uuid4().hex, group=group, event=event)
        with self._changed:
            self._news.pop(key, None)
            if len(self._news) >= MAX_NEWS:
                self._news.popitem(last=False)
            self._news[key] = news
            self._changed.notify()
        return news.message_id

    def run(self, stopping: threading.Event) -> None:
        """Send until told to stop; outages are waited out."""
        failures = 0
        while not stopping.is_set():
            if not self._wait_for_work():
                continue
            try:
                self.send_next()
            except TransientError as error:
                failures += 1
                wait = error.retry_after or self._backoff.after(failures)
                log.warning("event.not_sent", problem=str(error), retry_in_seconds=wait)
                stopping.wait(wait)
            except Exception:
                # Without this thread the whole server would be taken for dead.
                failures += 1
                log.exception("event.defect")
                stopping.wait(self._backoff.after(failures))
            else:
                failures = 0

    def flush(self, seconds: float) -> None:
        """Send what is left, for at most some seconds."""
        deadline = self._clock.monotonic() + seconds
        try:
            while self._clock.monotonic() < deadline and self.send_next():
                pass
        except TransientError:
            pass  # phases are in the journal, the rest will be said again

    def send_next(self) -> bool:
        """
        Send one message.

        :return: ``False`` if there was none.
        :raises TransientError: If it could not be sent; it stays first.
        """
        with self._sending:
            return self._send_first()

    def _send_first(self) -> bool:
        with self._changed:
            posted = self._phases[0] if self._phases else None
            key, news = next(iter(self._news.items()), (None, None))
        if posted is not None:
            self._send(posted.message_id, posted.event.ref.task_key, posted.event)
            self._journal.settle(posted)
            with self._changed:
                self._phases.popleft()
            return True
        if news is None or key is None:
            return False
        self._send(news.message_id, news.group, news.event)
        with self._changed:
            if self._news.get(key) is news:
                del self._news[key]
        return True

    def _wait_for_work(self) -> bool:
        with self._changed:
            if not self._phases and not self._news:
                self._changed.wait(timeout=30)
            return bool(self._phases or self._news)

    def _send(self, message_id: str, group: str, event: Event) -> None:
        try:
            body = self._seal(message_id, event)
        except (ValueError, RecursionError) as error:
            # Too large, or nothing that JSON can say; the error itself may hold the same.
            problem = ascii(str(error))[:500]
            log.error("event.unfit", kind=event.kind, problem=problem)
            if not isinstance(event, PhaseChanged):
                return
            reason = None if event.reason is None else ascii(event.reason)[1:-1][:500]
            slim = event.model_copy(update={"details": {"left_out": problem}, "reason": reason})
            body = self._seal(message_id, slim)
        self._queues.send(self._queue, group=group, message_id=message_id, body=body)
        if event.kind not in ("heartbeat", "progress"):
            log.info("event.sent", kind=event.kind, group=group, message_id=message_id)

    def _seal(self, message_id: str, event: Event) -> str:
        now = self._clock.now()
        self._sequence += 1
        header = Header(
            message_id=message_id,
            env=self._env,
            server=self._server,
            epoch=self._epoch,
            sequence=self._sequence,
            issued_at=now,
            expires_at=now + (PHASE_TTL if isinstance(event, PhaseChanged) else NEWS_TTL),
        )
        return seal(EventMessage(header=header, body=event), self._server, self._key)
