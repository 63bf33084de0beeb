"""An agent whose world is in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from fakes.agent_world import NOW, FakeClock, FakeGrantRequester, FakeQueues, FakeRuntime, FakeStore
from touchstone_agent.adapters.compiled import CompiledCache
from touchstone_agent.adapters.journal import Journal
from touchstone_agent.adapters.prepared import PreparedCache
from touchstone_agent.adapters.sqs import Received
from touchstone_agent.attempt_handle import AttemptHandle
from touchstone_agent.context import AgentContext
from touchstone_agent.core.gpus import DetectedGpu
from touchstone_agent.daemon import Agent
from touchstone_agent.logins import LoginRequester
from touchstone_agent.machine import Machine
from touchstone_agent.outbox import Outbox
from touchstone_agent.protocol.envelope import (
    CommandMessage,
    Header,
    generate_key,
    load_private_key,
    load_public_key,
    seal,
)
from touchstone_agent.protocol.messages import Command, PhaseChanged
from touchstone_agent.settings import AgentSettings
from touchstone_agent.supervisor import Supervisor

CONTROL_PRIVATE, CONTROL_PUBLIC = generate_key()
SERVER_PRIVATE, SERVER_PUBLIC = generate_key()


class AgentWorld:
    """Everything an agent needs, in memory but for its journal and folders."""

    def __init__(
        self, folder: Path, *, gpus: tuple[DetectedGpu, ...] = (), **settings: Any
    ) -> None:
        self.folder = folder
        self.gpus = gpus
        self.clock = FakeClock()
        self.queues = FakeQueues()
        self.runtime = FakeRuntime()
        self.store = FakeStore()
        self.grant_requester = FakeGrantRequester()
        self.settings = AgentSettings(
            **{
                "env": "dev",
                "server": "box",
                "state_dir": folder,
                "private_key_file": folder / "key",
                "control_public_key": CONTROL_PUBLIC,
                "images_allowed": ["*"],
                "slots": 2,
                "min_free_mib": 0,
                **settings,
            }
        )
        self.settings.attempts_dir.mkdir(exist_ok=True)
        self.restart()

    def restart(self) -> Agent:
        """Begin anew with the same journal, folders and containers."""
        self.journal = Journal(self.settings.journal_file)
        self.outbox = Outbox(
            queues=self.queues,
            queue=self.settings.event_queue,
            env="dev",
            server="box",
            key=load_private_key(SERVER_PRIVATE),
            journal=self.journal,
            clock=self.clock,
            epoch="e1",
        )
        self.context = AgentContext(
            runtime=self.runtime,
            grant_requester=self.grant_requester,
            logins=LoginRequester(self.outbox, self.clock, server="box"),
            transfer=self.store,
            outbox=self.outbox,
            clock=self.clock,
            env="dev",
            server="box",
            instance=self.journal.instance,
            prepared=PreparedCache(self.folder / "prepared", most_bytes=1024**3),
            compiled=CompiledCache(
                self.folder / "compiled",
                most_bytes=self.settings.compilation_cache_mib * 1024**2,
                free_bytes=0,
                devices=tuple,
                boot="boot",
            ),
            flush_seconds=0.01,
            stopping=threading.Event(),
        )
        self.agent = Agent(
            self.settings,
            keys={"control": load_public_key(CONTROL_PUBLIC)},
            queues=self.queues,
            journal=self.journal,
            outbox=self.outbox,
            context=self.context,
            machine=Machine(cpus=4, memory_mib=1000, gpus=self.gpus),
            epoch="e1",
        )
        return self.agent

    def order(self, command: Command, **header: Any) -> str:
        """Hand the agent a genuine command, as its queue does."""
        fields = {
            "message_id": uuid4().hex,
            "env": "dev",
            "server": "box",
            "issued_at": self.clock.now(),
            "expires_at": NOW + timedelta(days=9),
            **header,
        }
        message = CommandMessage(header=Header(**fields), body=command)
        text = seal(message, "control", load_private_key(CONTROL_PRIVATE))
        receipt = uuid4().hex
        self.agent._commands.handle("queue", Received(message_id="m", receipt=receipt, body=text))
        assert receipt in self.queues.deleted
        return receipt

    def tell(self) -> list[Any]:
        """Send what waits, and return the bodies of everything sent since the last call."""
        while self.outbox.send_next():
            pass
        bodies = [message.body for message in self.queues.open_all("box", SERVER_PUBLIC)]
        self.queues.sent.clear()
        return bodies

    def tell_phases(self) -> list[tuple[str, int, str]]:
        """Return the phases told since the last call: task, fence and phase."""
        return [
            (body.ref.task_id, body.ref.fence, body.phase.value)
            for body in self.tell()
            if isinstance(body, PhaseChanged)
        ]


@pytest.fixture
def supervised(monkeypatch: pytest.MonkeyPatch) -> list[Supervisor]:
    """Supervisors that were started; they wait to be run by the test."""
    started: list[Supervisor] = []

    def start(self: Supervisor) -> None:
        self._handle.is_supervised = True
        started.append(self)

    monkeypatch.setattr(Supervisor, "start", start)
    return started


@pytest.fixture
def make_world(tmp_path: Path, supervised: list[Supervisor]) -> Callable[..., AgentWorld]:
    def make(**options: Any) -> AgentWorld:
        return AgentWorld(tmp_path, **options)

    return make


@pytest.fixture
def world(make_world: Callable[..., AgentWorld]) -> AgentWorld:
    return make_world()


@pytest.fixture
def handles(world: AgentWorld) -> Callable[[], list[AttemptHandle]]:
    return lambda: list(world.agent._attempts.handles.values())
