"""The trigger of an attempt in a pod: waits as on a server, and has the pod driven meanwhile."""

from __future__ import annotations

import asyncio

import pytest
from airflow.triggers.base import TaskFailedEvent, TaskSuccessEvent

from fakes.agents import FakeAgentHook
from fakes.stores import FakeRecordStore
from fakes.tasks import build_task, change_fields
from touchstone.triggers import agent as agent_module
from touchstone.triggers import runpod as module
from touchstone.triggers.runpod import RunPodTrigger
from touchstone.triggers.watch import TaskWatcher
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.protocol.errors import ConfigurationError
from waiting import wait_async

KEY = ("s-1", "i5")
NOW = "2026-11-22T12:00:00+00:00"
POD = {"id": "p", "name": "n", "ordered_at": NOW, "price_per_hour": "0.5"}


class FakeDriver:
    """Takes note of who drives what, and ends when it is told to, or when the test says so."""

    made: list[FakeDriver]

    def __init__(self, context, key, fence):
        self.fence, self.key = fence, key
        self.was_cancelled = False
        self._stopping = asyncio.Event()
        FakeDriver.made.append(self)

    def stop(self):
        self._stopping.set()

    @property
    def is_stopped(self):
        return self._stopping.is_set()

    async def run(self):
        try:
            await self._stopping.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise


@pytest.fixture
def records():
    store = FakeRecordStore()
    told = {"platform": "runpod", "server": "runpod", "attempt": 1, "fence": 1}
    store.create_task(build_task(run_id="run", status="running", **told))
    return store


@pytest.fixture(autouse=True)
def parts(records, monkeypatch):
    FakeDriver.made = []
    looks = []

    def find_tasks(keys, known):
        looks.append(keys)
        return records.find_tasks(keys, known)

    watcher = TaskWatcher(find_tasks, poll_seconds=0)

    async def get_watcher():
        return watcher

    async def get_context():
        return None

    monkeypatch.setattr(agent_module, "get_watcher", get_watcher)
    monkeypatch.setattr(agent_module, "get_agent", FakeAgentHook)
    monkeypatch.setattr(agent_module, "get_records", lambda: records)
    monkeypatch.setattr(module, "get_records", lambda: records)
    monkeypatch.setattr(module, "get_context", get_context)
    monkeypatch.setattr(module, "PodDriver", FakeDriver)
    return looks


async def let_look(looks):
    """Let the records be looked at a few times more, and what is seen be taken in."""
    enough = len(looks) + 4
    await until("it has looked", lambda: len(looks) >= enough)


def change(records, **fields):
    change_fields(records, *KEY, **fields)


async def until(what, is_so):
    await wait_async(what, is_so, every=0)


def wait(trigger):
    async def run():
        return [event async for event in trigger.run()]

    return asyncio.create_task(run())


def test_it_is_rebuilt_from_what_it_serialises():
    path, arguments = RunPodTrigger("s-1", "i5", 3, "run").serialize()
    assert path == "touchstone.triggers.runpod.RunPodTrigger"
    assert RunPodTrigger(**arguments).serialize() == (path, arguments)


async def test_the_pod_is_driven_until_the_attempt_has_ended(records):
    waiting = wait(RunPodTrigger("s-1", "i5", 1, "run"))
    await until("it is driven", lambda: FakeDriver.made)
    change(records, outcome="succeeded", status="uploading", pod=POD | {"gone_at": NOW})
    assert isinstance((await waiting)[0], TaskSuccessEvent)
    assert [driver.fence for driver in FakeDriver.made] == [1]
    assert FakeDriver.made[0].was_cancelled, "nobody drives on behind a task that has ended"


async def test_an_attempt_is_not_over_before_its_pod_is_gone(records, parts):
    waiting = wait(RunPodTrigger("s-1", "i5", 1, "run"))
    pod = POD | {"gone_at": None}
    change(records, outcome="succeeded", status="uploading", pod=pod)
    await let_look(parts)
    assert not waiting.done()
    change(records, pod=pod | {"gone_at": NOW})
    assert isinstance((await waiting)[0], TaskSuccessEvent)


async def test_while_prestaged_nothing_is_driven_before_it_is_known_where_it_runs(records, parts):
    waiting = wait(RunPodTrigger("s-1", "i5", 2, "run"))
    await let_look(parts)
    assert FakeDriver.made == []
    change(records, fence=2, attempt=2)
    await until("it is driven", lambda: FakeDriver.made)
    assert FakeDriver.made[0].fence == 2
    waiting.cancel()


async def test_what_a_server_runs_is_waited_for_only(records, parts):
    change(records, platform="on-prem", server="local")
    waiting = wait(RunPodTrigger("s-1", "i5", 1, "run"))
    await let_look(parts)
    change(records, outcome="lost", status="lost", is_retriable=True)
    assert isinstance((await waiting)[0], TaskFailedEvent)
    assert FakeDriver.made == []


async def test_a_wish_to_cancel_reaches_the_driver(records):
    waiting = wait(RunPodTrigger("s-1", "i5", 1, "run"))
    await until("it is driven", lambda: FakeDriver.made)
    change(records, cancel={"through_fence": 1, "by": "ann", "at": NOW, "reason": "no"})
    await until("its driver is stopped", lambda: FakeDriver.made[0].is_stopped)
    change(records, outcome="cancelled", status="cancelled")
    assert (await waiting)[0].payload["outcome"] == "cancelled"


async def test_a_newer_attempt_stops_the_older_ones_driver(records):
    waiting = wait(RunPodTrigger("s-1", "i5", 1, "run"))
    await until("it is driven", lambda: FakeDriver.made)
    change(records, fence=2, attempt=2)
    assert isinstance((await waiting)[0], TaskFailedEvent)
    assert FakeDriver.made[0].is_stopped


async def test_a_kill_cancels_and_gives_the_pod_back(records):
    trigger = RunPodTrigger("s-1", "i5", 1, "run")
    killing = asyncio.create_task(trigger.on_kill())
    await until("it is driven", lambda: FakeDriver.made)
    assert records.get_task(*KEY).newest.cancel.reason
    FakeDriver.made[0].stop()
    await killing


async def test_a_driver_that_cannot_begin_is_begun_again(records, monkeypatch):
    monkeypatch.setattr(module, "BACKOFF", Backoff(first_seconds=0.01, cap_seconds=0.01))
    failures = iter([RuntimeError("no connection")])

    async def get_context():
        for failure in failures:
            raise failure

    monkeypatch.setattr(module, "get_context", get_context)
    waiting = wait(RunPodTrigger("s-1", "i5", 1, "run"))
    await until("it is driven", lambda: FakeDriver.made)
    waiting.cancel()


@pytest.mark.parametrize(
    ("outcome", "status"), [("succeeded", "success"), ("failed(user)", "error")]
)
async def test_a_validation_ends_well_with_any_verdict_when_its_pod_is_gone(
    records, parts, outcome, status
):
    pod = POD | {"gone_at": None}
    change(records, kind="validation", outcome=outcome, status=status, pod=pod)
    waiting = wait(RunPodTrigger("s-1", "i5", 1, "run"))
    await let_look(parts)
    assert not waiting.done()
    change(records, pod=pod | {"gone_at": NOW})
    assert isinstance((await waiting)[0], TaskSuccessEvent)


def lack_key(monkeypatch):
    """Let nothing be rented, as when a connection has no password."""
    monkeypatch.setattr(module, "BACKOFF", Backoff(first_seconds=0.01, cap_seconds=0.01))
    asked = []

    async def get_context():
        asked.append(1)
        raise ConfigurationError("connection 'touchstone_agent' has no password")

    monkeypatch.setattr(module, "get_context", get_context)
    return asked


async def test_what_can_never_be_rented_ends_with_the_reason(records, monkeypatch):
    """It was tried again every five seconds for ever, and its slot was held."""
    asked = lack_key(monkeypatch)

    [event] = await wait(RunPodTrigger("s-1", "i5", 1, "run"))

    assert isinstance(event, TaskFailedEvent)
    task = records.get_task(*KEY)
    assert (task.newest.failure_class, task.newest.is_retriable) == ("account", True)
    assert "'touchstone_agent' has no password" in task.newest.reason
    assert len(asked) == 1


async def test_an_attempt_that_has_a_pod_is_not_ended_while_that_may_be_billed(
    records, monkeypatch
):
    pod = POD | {"gone_at": None}
    change(records, pod=pod)
    asked = lack_key(monkeypatch)

    waiting = wait(RunPodTrigger("s-1", "i5", 1, "run"))
    await until("it has asked again", lambda: len(asked) > 2)

    assert records.get_task(*KEY).status == "running"
    waiting.cancel()
