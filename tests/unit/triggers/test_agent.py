"""The trigger of an attempt: round trip, each way to end, kill."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from airflow.triggers.base import TaskFailedEvent, TaskSuccessEvent, TriggerEvent

from fakes.agents import FakeAgentHook
from fakes.stores import FakeRecordStore
from fakes.tasks import build_task, change_fields
from touchstone.triggers import agent as module
from touchstone.triggers.agent import AgentTrigger, UploadTrigger
from touchstone.triggers.watch import TaskWatcher
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.protocol.messages import Cancel


@pytest.fixture
def records():
    return FakeRecordStore()


@pytest.fixture
def make_task(records):
    def make(**changes):
        task = {"run_id": "run", "status": "running", "server": "local", "attempt": 1, "fence": 1}
        records.create_task(build_task(**(task | changes)))

    return make


@pytest.fixture(autouse=True)
def parts(records, monkeypatch):
    """Watch, read and cancel in memory."""
    sent = FakeAgentHook()
    watcher = TaskWatcher(records.find_tasks, poll_seconds=0)

    async def get_watcher():
        return watcher

    monkeypatch.setattr(module, "get_watcher", get_watcher)
    monkeypatch.setattr(module, "get_agent", lambda: sent)
    monkeypatch.setattr(module, "get_records", lambda: records)
    return sent


@pytest.fixture
def trigger():
    return AgentTrigger("s-1", "i5", 1, "run")


async def only_event(trigger):
    events = [event async for event in trigger.run()]
    assert len(events) == 1
    return events[0]


@pytest.mark.parametrize(
    "trigger", [AgentTrigger("s-1", "i5", 3, "run"), UploadTrigger("s-1", "i5", 3)]
)
def test_a_trigger_is_rebuilt_from_what_it_serialises(trigger):
    kind = type(trigger)
    path, arguments = trigger.serialize()

    assert path == f"{kind.__module__}.{kind.__qualname__}"
    assert kind(**arguments).serialize() == (path, arguments)


async def test_a_good_end_succeeds_from_the_trigger(trigger, make_task):
    make_task(status="uploading", outcome="succeeded")

    assert isinstance(await only_event(trigger), TaskSuccessEvent)


async def test_what_another_attempt_may_mend_fails_from_the_trigger(trigger, make_task):
    make_task(status="lost", outcome="lost", is_retriable=True)

    assert isinstance(await only_event(trigger), TaskFailedEvent)


async def test_what_no_attempt_mends_resumes_with_the_reason(trigger, make_task):
    make_task(status="error", outcome="failed(user)", is_retriable=False, reason="bad shape")

    event = await only_event(trigger)

    assert type(event) is TriggerEvent
    assert event.payload["reason"] == "bad shape"


async def test_the_wait_goes_on_until_the_record_changes(trigger, make_task, records):
    make_task()
    wait = asyncio.create_task(only_event(trigger))
    await asyncio.sleep(0)
    assert not wait.done()

    change_fields(records, "s-1", "i5", outcome="succeeded")

    assert isinstance(await wait, TaskSuccessEvent)


async def test_a_fault_of_ours_ends_no_training_that_is_well(trigger, make_task, monkeypatch):
    make_task(status="uploading", outcome="succeeded")
    working, calls = module.get_watcher, []

    async def broken_at_first():
        calls.append(1)
        if len(calls) < 3:
            raise RuntimeError("the connection is not defined yet")
        return await working()

    monkeypatch.setattr(module, "get_watcher", broken_at_first)
    monkeypatch.setattr(module, "BACKOFF", Backoff(first_seconds=0, cap_seconds=0))

    assert isinstance(await only_event(trigger), TaskSuccessEvent)


async def test_what_another_run_has_taken_over_is_not_retried(trigger, make_task):
    make_task(run_id="run--2", fence=2)

    assert type(await only_event(trigger)) is TriggerEvent


async def test_a_kill_cancels_the_attempt_and_a_second_one_is_harmless(
    trigger, make_task, records, parts
):
    make_task()

    await trigger.on_kill()
    await trigger.on_kill()

    assert records.get_task("s-1", "i5").newest.cancel.through_fence == 1
    assert {command.ref.fence for command in parts.commands(Cancel)} == {1}


async def test_a_kill_goes_on_when_airflow_cancels_it(trigger, make_task, records):
    make_task()
    kill = asyncio.ensure_future(trigger.on_kill())
    await asyncio.sleep(0)

    kill.cancel()
    with pytest.raises(asyncio.CancelledError):
        await kill
    await asyncio.gather(*module._kills)

    assert records.get_task("s-1", "i5").newest.cancel is not None


async def test_a_kill_that_never_happened_is_ignored(trigger, make_task, records, monkeypatch):
    make_task()
    monkeypatch.setattr(
        "airflow.sdk.execution_time.task_runner.RuntimeTaskInstance.get_task_states",
        lambda **_: {"run": {"train_2": "deferred"}},
    )
    trigger._task_instance = SimpleNamespace(
        dag_id="touchstone", task_id="train", run_id="run", map_index=2
    )

    await trigger.on_kill()

    assert records.get_task("s-1", "i5").newest.cancel is None


async def test_a_clear_is_a_kill_although_the_task_waits_again(
    trigger, make_task, records, monkeypatch
):
    """The next attempt has been claimed already: only the older one's intent could be meant."""
    make_task(fence=2)
    await trigger.on_kill()

    assert records.get_task("s-1", "i5").newest.cancel is None


async def test_uploads_are_waited_for(make_task, records):
    make_task(status="uploading", outcome="succeeded", uploaded_at=None)
    wait = asyncio.create_task(only_event(UploadTrigger("s-1", "i5", 1)))
    await asyncio.sleep(0)
    assert not wait.done()

    change_fields(records, "s-1", "i5", uploaded_at="2026-11-22T12:00:00+00:00")

    assert (await wait).payload == {"fence": 1}
