"""The triggers of programs: when they end, with what, and what they tell meanwhile."""

from __future__ import annotations

import asyncio

import pytest
from airflow.triggers.base import TaskFailedEvent, TaskSuccessEvent

from fakes.agents import FakeAgentHook
from fakes.stores import FakeObjectStore, FakeRecordStore
from fakes.tasks import change_fields, with_fields
from touchstone.core.names import build_console_key
from touchstone.core.program_attempts import new_program
from touchstone.core.programs import Program
from touchstone.core.records.stored import read_time
from touchstone.core.schedule import Training
from touchstone.core.tasks import build_program_spec
from touchstone.settings import get_settings
from touchstone.triggers import agent as agent_module
from touchstone.triggers import programs as module
from touchstone.triggers.programs import AgentProgramTrigger, RunPodProgramTrigger
from touchstone.triggers.watch import TaskWatcher
from touchstone_agent.protocol.messages import Limits
from waiting import wait_async

NOW = "2026-11-22T12:00:00+00:00"
SPEC = build_program_spec(
    Program(dag_id="nightly", task_id="report", command=("x",)),
    run_id="r",
    map_index=-1,
    image="ours:1",
    limits=Limits(),
    schedule=Training(),
)
KEY = (SPEC.submission_id, SPEC.task_id)
RUNNING = {"status": "running", "phase": "running", "server": "rio", "attempt": 1, "fence": 1}


class FakeLog:
    """Takes note of what is told."""

    def __init__(self):
        self.lines = []

    def info(self, text, *arguments):
        self.lines.append(text % arguments if arguments else text)

    error = warning = exception = info


@pytest.fixture
def records():
    store = FakeRecordStore()
    task = new_program(SPEC, run_id="r", map_index=-1, now=read_time(NOW))
    store.create_task(with_fields(task, **RUNNING))
    return store


@pytest.fixture
def objects():
    return FakeObjectStore()


@pytest.fixture(autouse=True)
def parts(records, objects, monkeypatch):
    watcher = TaskWatcher(records.find_tasks, poll_seconds=0)

    async def get_watcher():
        return watcher

    monkeypatch.setattr(agent_module, "get_watcher", get_watcher)
    monkeypatch.setattr(agent_module, "get_agent", FakeAgentHook)
    for each in (agent_module, module):
        monkeypatch.setattr(each, "get_records", lambda: records)
    monkeypatch.setattr(module, "get_objects", lambda: objects)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0)


@pytest.fixture
def trigger():
    made = AgentProgramTrigger(*KEY, 1, "r")
    made._log = FakeLog()
    return made


def wait(trigger):
    async def run():
        return [event async for event in trigger.run()]

    return asyncio.create_task(run())


def put_console(objects, records, offset, data):
    ref = records.get_task(*KEY).ref
    objects.put(get_settings().logs_bucket, build_console_key(ref, offset), data)


async def until_told(trigger, line):
    await wait_async(line, lambda: line in trigger.log.lines, every=0)


@pytest.mark.parametrize("kind", [AgentProgramTrigger, RunPodProgramTrigger])
def test_a_trigger_is_rebuilt_from_what_it_serialises(kind):
    path, arguments = kind(*KEY, 3, "r").serialize()

    assert path == f"touchstone.triggers.programs.{kind.__name__}"
    assert kind(**arguments).serialize() == (path, arguments)


async def test_it_tells_the_console_while_it_waits_and_ends_when_the_files_are_stored(
    trigger, records, objects
):
    waiting = wait(trigger)
    put_console(objects, records, 0, b"epoch 1\n")
    await until_told(trigger, "| epoch 1")

    change_fields(records, *KEY, status="uploading", phase="exited", outcome="succeeded")
    put_console(objects, records, 8, b"done")
    for _ in range(20):
        await asyncio.sleep(0)
    assert not waiting.done(), "its files are not stored yet"
    change_fields(records, *KEY, phase="uploaded", uploaded_at=NOW)

    (event,) = await waiting
    assert isinstance(event, TaskSuccessEvent)
    assert trigger.log.lines[-1] == "| done"
    left = event.xcoms["return_value"]
    assert left["outputs"].endswith(f"/attempts/{KEY[0]}/{KEY[1]}/1-1/")
    assert (left["server"], left["usd"]) == ("rio", None)
    assert records.get_task(*KEY).status == "success"


async def test_files_that_never_come_are_a_failure(trigger, records):
    change_fields(records, *KEY, status="uploading", phase="exited", outcome="succeeded")
    waiting = wait(trigger)
    change_fields(records, *KEY, status="lost", phase="lost", outcome="lost", reason="silent")

    assert isinstance((await waiting)[0], TaskFailedEvent)


@pytest.mark.parametrize("is_retriable", [True, False])
async def test_a_failure_ends_from_the_trigger_with_its_reason_in_the_log(
    trigger, records, is_retriable
):
    """To resume would need a slot of its server's once more."""
    change_fields(
        records,
        *KEY,
        status="error",
        phase="uploaded",
        outcome="failed(user)",
        failure_class="config",
        reason="config: no such flag",
        is_retriable=is_retriable,
    )

    (event,) = await wait(trigger)

    assert isinstance(event, TaskFailedEvent)
    assert trigger.log.lines[-1] == "config: config: no such flag"


async def test_a_console_that_cannot_be_read_ends_nothing(trigger, records, monkeypatch):
    async def fail(_):
        raise RuntimeError("a defect")

    monkeypatch.setattr(module.ConsoleRelay, "relay", fail)
    waiting = wait(trigger)
    await until_told(trigger, "the console cannot be read just now")

    assert not waiting.done()
    waiting.cancel()
