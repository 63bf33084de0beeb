"""Servers without containers: they answer START over real queues, and end when it is time."""

from __future__ import annotations

import heapq
import random
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from touchstone_agent.protocol.envelope import (
    EventMessage,
    Header,
    load_private_key,
    load_public_key,
    open_command,
    seal,
)
from touchstone_agent.protocol.messages import (
    AttemptPhase,
    AttemptRef,
    Event,
    Heartbeat,
    Inventory,
    PhaseChanged,
    Start,
)
from touchstone_agent.protocol.names import build_event_queue, build_request_queue

HEARTBEAT_SECONDS = 5.0
GOOD = {"outcome": "succeeded", "class": "ok", "exit_code": 0}
TEMPORARY = {"outcome": "failed", "class": "temporary", "exit_code": 75}


@dataclass(frozen=True, kw_only=True)
class Container:
    """
    One that ran, or runs.

    :param ended_at: Monotonic; ``None`` while it runs.
    """

    server: str
    ref: AttemptRef
    began_at: float
    ended_at: float | None = None


class VirtualAgents:
    """
    All servers of an environment, each with its slots, queue and key.

    They keep what an agent owes: a START seen before changes nothing, one of an older fence
    starts nothing. What none may ever be asked for is kept in ``faults``.

    :param env: The environment.
    :param slots: Training slots by server.
    :param private_keys: Key of each server.
    :param control_key: Public key of the control plane.
    :param connect: Returns an SQS client; each thread has its own.
    :param seconds: Returns how long a container runs.
    :param fails: Tells whether an attempt ends with exit code 75.
    """

    def __init__(
        self,
        *,
        env: str,
        slots: Mapping[str, int],
        private_keys: Mapping[str, str],
        control_key: str,
        connect: Callable[[], Any],
        seconds: Callable[[], float],
        fails: Callable[[AttemptRef], bool],
    ) -> None:
        self._env = env
        self._slots = slots
        self._private = {name: load_private_key(key) for name, key in private_keys.items()}
        self._control = {"control": load_public_key(control_key)}
        self._connect = connect
        self._seconds = seconds
        self._fails = fails
        self._epoch = uuid.uuid4().hex
        self._sequence = 0
        self._lock = threading.Lock()
        self._newest: dict[str, int] = {}
        self._running: dict[str, Container] = {}
        self._ending: list[tuple[float, str]] = []
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self.containers: list[Container] = []
        self.faults: list[str] = []
        self.most: Counter[str] = Counter()
        self.repeated = 0
        self.on_exit: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Begin to listen and to tell that all are alive."""
        works = [(self._listen, (name,)) for name in self._slots]
        for target, args in [*works, (self._end, ()), (self._beat, ())]:
            thread = threading.Thread(target=self._guard, args=(target, *args), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Say nothing more."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _guard(self, work: Callable[..., None], *args: Any) -> None:
        """Tell of a loop that ends by mistake: what it should have done is waited for in vain."""
        try:
            work(*args)
        except Exception:
            self.faults.append(traceback.format_exc())
            raise

    # --- loops -----------------------------------------------------------------------------

    def _listen(self, server: str) -> None:
        sqs = self._connect()
        url = sqs.get_queue_url(QueueName=build_request_queue(server))["QueueUrl"]
        while not self._stopping.is_set():
            answer = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=2, MaxNumberOfMessages=10)
            for message in answer.get("Messages", ()):
                command = open_command(
                    message["Body"],
                    keys=self._control,
                    env=self._env,
                    server=server,
                    now=datetime.now(UTC),
                ).body
                assert isinstance(command, Start)
                if self._begin(server, command.ref):
                    self._tell(sqs, server, command.ref, AttemptPhase.RUNNING)
                sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])

    def _begin(self, server: str, ref: AttemptRef) -> bool:
        with self._lock:
            newest = self._newest.get(ref.task_key, 0)
            if ref.fence <= newest:
                self.repeated += 1
                return False
            self._newest[ref.task_key] = ref.fence
            other = self._running.get(ref.task_key)
            if other is not None:
                self.faults.append(f"{ref} on {server} while it runs as {other}")
                return False
            held = sum(item.server == server for item in self._running.values())
            self.most[server] = max(self.most[server], held + 1)
            if held >= self._slots[server]:
                self.faults.append(f"{ref} on {server}, whose {held} slots are all in use")
                return False
            now = time.monotonic()
            self._running[ref.task_key] = Container(server=server, ref=ref, began_at=now)
            heapq.heappush(self._ending, (now + self._seconds(), ref.task_key))
            return True

    def _end(self) -> None:
        sqs = self._connect()
        while not self._stopping.wait(0.05):
            for container in self._find_ended():
                code = 75 if self._fails(container.ref) else 0
                verdict = TEMPORARY if code else GOOD
                details = {"exit_code": code, "verdict": verdict, "files": []}
                self._tell(sqs, container.server, container.ref, AttemptPhase.EXITED, details)
                self.on_exit()
                self._tell(sqs, container.server, container.ref, AttemptPhase.UPLOADED, details)

    def _find_ended(self) -> list[Container]:
        ended = []
        with self._lock:
            if self.most != Counter(self._slots):
                # However slowly they come: only then is it seen whether all slots are used.
                return []
            now = time.monotonic()
            while self._ending and self._ending[0][0] <= now:
                container = self._running.pop(heapq.heappop(self._ending)[1])
                ended.append(container)
                self.containers.append(
                    Container(
                        server=container.server,
                        ref=container.ref,
                        began_at=container.began_at,
                        ended_at=now,
                    )
                )
        return ended

    def _beat(self) -> None:
        sqs = self._connect()
        while True:
            for server, slots in self._slots.items():
                inventory = Inventory(
                    slots=slots,
                    validation_slots=1,
                    runtime="process",
                    agent_version="0",
                    cpus=8,
                    memory_mib=65536,
                )
                self._send(sqs, server, Heartbeat(inventory=inventory), group=server)
            if self._stopping.wait(HEARTBEAT_SECONDS):
                return

    # --- events ----------------------------------------------------------------------------

    def _tell(
        self,
        sqs: Any,
        server: str,
        ref: AttemptRef,
        phase: AttemptPhase,
        details: dict[str, Any] | None = None,
    ) -> None:
        event = PhaseChanged(ref=ref, phase=phase, at=datetime.now(UTC), details=details or {})
        self._send(sqs, server, event, group=ref.task_key)

    def _send(self, sqs: Any, server: str, body: Event, *, group: str) -> None:
        with self._lock:
            self._sequence += 1
            sequence = self._sequence
        now = datetime.now(UTC)
        header = Header(
            message_id=uuid.uuid4().hex,
            env=self._env,
            server=server,
            epoch=self._epoch,
            sequence=sequence,
            issued_at=now,
            expires_at=now + timedelta(days=1),
        )
        queue = build_event_queue(self._env)
        sqs.send_message(
            QueueUrl=sqs.get_queue_url(QueueName=queue)["QueueUrl"],
            MessageBody=seal(EventMessage(header=header, body=body), server, self._private[server]),
            MessageGroupId=group,
            MessageDeduplicationId=header.message_id,
        )


def fail_some_first_attempts(share: float, seed: int) -> Callable[[AttemptRef], bool]:
    """Return a rule by which some tasks fail once, for a reason that another attempt mends."""
    chance = random.Random(seed)
    chosen: dict[str, bool] = {}

    def fails(ref: AttemptRef) -> bool:
        if ref.task_key not in chosen:
            chosen[ref.task_key] = chance.random() < share
            return chosen[ref.task_key]
        return False

    return fails
