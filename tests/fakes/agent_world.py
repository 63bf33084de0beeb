"""The world of an agent in memory: queues, a runtime, a store, a clock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

from touchstone_agent.adapters.sqs import Received
from touchstone_agent.core.attempts import Attempt
from touchstone_agent.core.ports import EngineFacts, Exit, LaunchSpec
from touchstone_agent.protocol.envelope import EventMessage, load_public_key, open_event
from touchstone_agent.protocol.errors import TransientError
from touchstone_agent.protocol.messages import (
    AttemptPhase,
    AttemptRef,
    Grant,
    GrantPurpose,
    Grants,
    GrantsWanted,
    SlotClass,
    Start,
)

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)


class FakeClock:
    """Stands still unless told."""

    def __init__(self) -> None:
        self._now = NOW
        self._monotonic = 1000.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds


class FakeQueues:
    """Keeps what is sent and deleted; fails as often as told."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, str, str]] = []
        self.deleted: list[str] = []
        self.failures = 0

    def send(self, queue: str, *, group: str, message_id: str, body: str) -> None:
        if self.failures:
            self.failures -= 1
            raise TransientError("no queue today")
        self.sent.append((queue, group, message_id, body))

    def receive(self, queue: str, *, wait_seconds: int = 20) -> tuple[Received, ...]:
        return ()

    def delete(self, queue: str, receipt: str) -> None:
        self.deleted.append(receipt)

    def open_all(self, server: str, public_key: str, env: str = "dev") -> list[EventMessage]:
        """Open everything sent, as the control plane does."""
        keys = {server: load_public_key(public_key)}
        return [open_event(body, keys=keys, env=env, now=NOW) for *_, body in self.sent]


class FakeRuntime:
    """Containers that do in a function what a runner does."""

    name = "fake"

    def __init__(self, work: Callable[[LaunchSpec], Exit | None] | None = None) -> None:
        self._work = work
        self.launched: list[LaunchSpec] = []
        self.exits: dict[str, Exit | None] = {}
        self.labels: dict[str, Mapping[str, str]] = {}
        self.stopped: list[str] = []
        self.killed: list[str] = []
        self.removed: list[str] = []
        self.swept: list[list[str]] = []
        self.output = b""
        self.engine: EngineFacts | None = None
        self.image_labels: dict[str, str] = {}
        self.main_pids: dict[str, int] = {}
        self.problems: list[Exception] = []
        self.changed = threading.Condition()

    def check(self) -> str:
        return "fake"

    def read_engine(self) -> EngineFacts | None:
        self._fail()
        return self.engine

    def resolve_image(self, image: str, *, is_cancelled: Callable[[], bool], **_: object) -> str:
        self._fail()
        return f"digest of {image}"

    def sweep_images(self, in_use: Collection[str]) -> None:
        self.swept.append(sorted(in_use))

    def launch(self, spec: LaunchSpec) -> None:
        self._fail()
        if spec.name in self.exits:
            return
        self.launched.append(spec)
        self.labels[spec.name] = spec.labels
        self.exits[spec.name] = self._work(spec) if self._work else None

    def exists(self, name: str) -> bool:
        return name in self.exits

    def wait(self, name: str) -> Exit | None:
        with self.changed:
            while name in self.exits and self.exits[name] is None:
                self.changed.wait(30)
            return self.exits.get(name)

    def stop(self, name: str, *, grace_seconds: float) -> None:
        self._fail()
        self.stopped.append(name)
        with self.changed:
            if name in self.exits and self.exits[name] is None:
                self.exits[name] = Exit(exit_code=143)
            self.changed.notify_all()

    def kill(self, name: str) -> None:
        self._fail()
        self.killed.append(name)
        with self.changed:
            if name in self.exits and self.exits[name] is None:
                self.exits[name] = Exit(exit_code=137)
            self.changed.notify_all()

    def find_main_pid(self, name: str, out: Path) -> int | None:
        return self.main_pids.get(name)

    def read_image_labels(self, image: str) -> Mapping[str, str]:
        return self.image_labels

    def find_shared_user(self, image: str | None = None) -> str | None:
        return None

    def read_output(self, name: str) -> bytes:
        return self.output

    def remove(self, name: str) -> None:
        self.removed.append(name)
        self.labels.pop(name, None)
        with self.changed:
            self.exits.pop(name, None)
            self.changed.notify_all()

    def list_labels(self) -> Mapping[str, Mapping[str, str]]:
        return dict(self.labels)

    def _fail(self) -> None:
        if self.problems:
            raise self.problems.pop(0)


class FakeStore:
    """Objects by URL; takes part for :class:`~touchstone_agent.adapters.transfer.Transfer`."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.problems: list[Exception] = []

    def fetch(
        self,
        grant: Grant,
        target: Path,
        *,
        sha256: str,
        size: int,
        is_cancelled: Callable[[], bool],
    ) -> None:
        self._fail()
        target.write_bytes(self.objects[grant.url])

    def put(
        self,
        grant: Grant,
        file: IO[bytes],
        *,
        offset: int,
        size: int,
        is_cancelled: Callable[[], bool],
    ) -> bool:
        self._fail()
        if grant.url in self.objects:
            return False
        file.seek(offset)
        self.objects[grant.url] = file.read(size)
        return True

    def _fail(self) -> None:
        if self.problems:
            raise self.problems.pop(0)


class FakeGrantRequester:
    """Grants everything at once, except what it was told to refuse."""

    def __init__(self) -> None:
        self.asked: list[GrantsWanted] = []
        self.refused: dict[str, str] = {}

    def ask(
        self,
        ref: AttemptRef,
        purpose: GrantPurpose,
        wants: list,
        *,
        is_ended: Callable[[], bool],
    ) -> Grants:
        self.asked.append(GrantsWanted(ref=ref, purpose=purpose, wants=tuple(wants)))
        grants = {
            want.path: make_grant(f"{purpose}/{want.path}")
            for want in wants
            if want.path not in self.refused
        }
        refused = {w.path: self.refused[w.path] for w in wants if w.path in self.refused}
        return Grants(ref=ref, purpose=purpose, grants=grants, refused=refused)

    def receive(self, message: Grants) -> bool:
        return False

    def wake(self) -> None:
        pass


def make_grant(url: str, **fields: object) -> Grant:
    """Build a grant that lives for an hour."""
    return Grant(**{"method": "PUT", "url": url, "expires_at": NOW + timedelta(hours=1), **fields})


def make_ref(task_id: str = "i5", attempt: int = 1, fence: int = 1, **fields: str) -> AttemptRef:
    """Build an attempt's identity."""
    return AttemptRef(
        **{"submission_id": "s1", "task_id": task_id, "attempt": attempt, "fence": fence, **fields}
    )


def make_start(ref: AttemptRef | None = None, **fields: object) -> Start:
    """Build a START of a training."""
    return Start(
        **{
            "ref": ref or make_ref(),
            "slot_class": SlotClass.TRAINING,
            "image": "trainer:1",
            "argv": ("train", "--out", "{out}"),
            **fields,
        }
    )


def make_attempt(
    ref: AttemptRef | None = None,
    phase: AttemptPhase = AttemptPhase.RUNNING,
    *,
    start: Start | None = None,
    **fields: object,
) -> Attempt:
    """Build an attempt."""
    return Attempt(
        **{
            "start": start or make_start(ref),
            "phase": phase,
            "phase_at": NOW,
            "accepted_at": NOW,
            **fields,
        }
    )
