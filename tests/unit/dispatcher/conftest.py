"""Records, objects and agents in memory, and a server whose key is known."""

from __future__ import annotations

from datetime import timedelta

import pytest

from fakes.agents import FakeAgentHook
from fakes.clock import NOW, Clock
from fakes.servers import store_server
from fakes.stores import FakeObjectStore, FakeRecordStore
from fakes.submissions import build_submission
from fakes.tasks import with_fields
from touchstone.core import attempts
from touchstone.core.tasks import TaskSpec
from touchstone.settings import Settings
from touchstone_agent.protocol.envelope import (
    EventMessage,
    Header,
    generate_key,
    load_private_key,
    seal,
)
from touchstone_agent.protocol.messages import AttemptRef, Limits


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def settings():
    return Settings(env="dev", lease_seconds=900)


@pytest.fixture
def records(settings):
    return FakeRecordStore(settings)


@pytest.fixture
def objects():
    return FakeObjectStore()


@pytest.fixture
def agent():
    return FakeAgentHook()


@pytest.fixture
def server_key(records):
    private, public = generate_key()
    store_server(records, {"server": "local", "env": "dev", "public_key": public})
    return load_private_key(private)


@pytest.fixture
def make_event(clock, server_key):
    """Seal an event as the server ``local`` would."""
    sent = iter(range(1, 1000))

    def make(body, *, server="local", kid="local", env="dev", key=server_key):
        number = next(sent)
        header = Header(
            message_id=f"event-{number}",
            env=env,
            server=server,
            epoch="e",
            sequence=number,
            issued_at=clock(),
            expires_at=clock() + timedelta(days=1),
        )
        return seal(EventMessage(header=header, body=body), kid, key)

    return make


@pytest.fixture
def make_task(records):
    """Put a task on record, with its first attempt claimed unless told otherwise."""

    def make(task_id="i5", *, kind="training", attempt=1, server="local", **changes):
        spec = TaskSpec(
            submission_id="s-1",
            task_id=task_id,
            kind=kind,
            system="feature_set",
            image="trainer",
            content_sha256="c" * 64,
            content_size=10,
            limits=Limits(),
            interval=None if kind == "validation" else 5,
        )
        task = attempts.new_task(spec, run_id="s-1", map_index=0, now=NOW)
        for number in range(1, attempt + 1):
            task = attempts.claim_attempt(
                task, attempt=number, server=server, container_of=lambda _: "c", now=NOW
            )
        records.create_task(with_fields(task, **changes))
        return AttemptRef(
            submission_id="s-1", task_id=task_id, attempt=max(1, attempt), fence=max(1, attempt)
        )

    return make


@pytest.fixture
def make_submission(records):
    def make(status="queued", **changes):
        told = {
            "status": status,
            "run_ids": ["s-1"],
            "created_at": NOW.isoformat(),
            "actions": [],
        }
        records.create_submission(build_submission(**(told | changes)))

    return make
