"""One poll for many waiters."""

from __future__ import annotations

import asyncio

from fakes.tasks import build_task
from touchstone.core.records.tasks import Task, TaskEntry
from touchstone.triggers.watch import TaskWatcher
from touchstone_agent.protocol.errors import TransientError
from waiting import wait_async


def entry(version, **fields):
    """Return what the store reads of a task; with an odd field it makes no sense."""
    return TaskEntry.parse({**build_task().dump(), "version": version, **fields}, Task)


class Store:
    """Records by key; each read is counted."""

    def __init__(self):
        self.records = {}
        self.reads = []
        self.faults = 0
        self.known = []

    def fetch(self, keys, known):
        self.known.append(dict(known))
        self.reads.append(sorted(keys))
        if self.faults:
            self.faults -= 1
            raise TransientError("down")
        return {key: self.records[key] for key in keys if key in self.records}


async def take(changes, count):
    return [await anext(changes) for _ in range(count)]


async def test_a_waiter_hears_the_record_as_it_is_and_then_only_of_changes():
    store = Store()
    store.records["s", "i1"] = entry(1)
    changes = TaskWatcher(store.fetch, poll_seconds=0).changes(("s", "i1"))

    assert await anext(changes) == build_task(version=1)
    store.records["s", "i1"] = entry(2)
    assert await anext(changes) == build_task(version=2)


async def test_what_was_read_before_is_handed_back_to_be_kept():
    store = Store()
    store.records["s", "i1"] = first = entry(1)
    changes = TaskWatcher(store.fetch, poll_seconds=0).changes(("s", "i1"))

    await anext(changes)
    store.records["s", "i1"] = entry(2)
    await anext(changes)

    assert store.known[:2] == [{}, {("s", "i1"): first}]


async def test_many_waiters_share_one_read():
    store = Store()
    keys = [("s", f"i{number}") for number in range(50)]
    store.records = {key: entry(1) for key in keys}
    watcher = TaskWatcher(store.fetch, poll_seconds=0)

    await asyncio.gather(*(take(watcher.changes(key), 1) for key in keys))

    assert store.reads[0] == sorted(keys)


async def test_a_store_that_is_down_ends_no_wait(monkeypatch):
    monkeypatch.setattr("touchstone.triggers.watch._BACK_OFF_SECONDS", 0)
    store = Store()
    store.faults = 3
    store.records["s", "i1"] = entry(1)

    changes = TaskWatcher(store.fetch, poll_seconds=0).changes(("s", "i1"))

    assert await anext(changes) == build_task(version=1)
    assert len(store.reads) == 4


async def test_polling_stops_when_nobody_waits():
    store = Store()
    store.records["s", "i1"] = entry(1)
    watcher = TaskWatcher(store.fetch, poll_seconds=0)
    changes = watcher.changes(("s", "i1"))
    await anext(changes)

    await changes.aclose()
    await watcher._poller


async def test_a_poll_that_ends_under_those_who_wait_begins_again(caplog):
    """Whoever waited then waited for ever: only a newcomer would have started another poll."""
    store = Store()
    store.records["s", "i1"] = entry(1)
    watcher = TaskWatcher(store.fetch, poll_seconds=0)
    changes = watcher.changes(("s", "i1"))
    await anext(changes)

    watcher._poller.cancel()
    store.records["s", "i1"] = entry(2)

    assert await anext(changes) == build_task(version=2)
    assert "has ended: it was cancelled; it begins again" in caplog.text


async def test_one_odd_answer_ends_no_wait(monkeypatch):
    monkeypatch.setattr("touchstone.triggers.watch._BACK_OFF_SECONDS", 0)
    answers = iter([None, {("s", "i1"): entry(1)}])

    changes = TaskWatcher(lambda keys, known: next(answers), poll_seconds=0).changes(("s", "i1"))

    assert await anext(changes) == build_task(version=1)


async def test_a_record_that_makes_no_sense_is_no_end_and_is_told_once(caplog):
    store = Store()
    store.records["s", "i1"] = entry(1, status="dancing")
    changes = TaskWatcher(store.fetch, poll_seconds=0).changes(("s", "i1"))
    waiting = asyncio.ensure_future(anext(changes))

    await wait_async("it was looked at often", lambda: len(store.reads) >= 5, every=0.01)
    assert not waiting.done()
    assert caplog.text.count("task s-1/i5: task record: status") == 1
    store.records["s", "i1"] = entry(2)

    assert await waiting == build_task(version=2)
