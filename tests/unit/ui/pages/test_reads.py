"""How often an open page asks the stores: hundreds are open, and each asks every few seconds."""

from __future__ import annotations

import pytest

from touchstone.core.names import build_console_key
from touchstone.core.queue import QUEUE_KEY
from touchstone.stores.objects import KEPT_BYTES
from touchstone_agent.protocol.messages import AttemptRef


@pytest.fixture
def asked(monkeypatch, records, objects):
    """What the stores are asked for from now on, in order."""
    seen = []

    def watch(store, name):
        ask = getattr(store, name)

        def count(*args, **options):
            seen.append((name, args[1]))
            return ask(*args, **options)

        monkeypatch.setattr(store, name, count)

    for name in ("_find", "_find_many", "_query"):
        watch(records, name)
    for name in ("get", "iterate"):
        watch(objects, name)
    return seen


def count_records(asked):
    return [name for name, _ in asked if name.startswith("_")]


def test_an_open_submission_reads_its_record_its_tasks_and_its_entries(
    engineer, make_submission, make_task, asked
):
    make_submission()
    for task_id in ("i1", "i5", "i20"):
        make_task(task_id=task_id)
    asked.clear()

    assert engineer.get("/submissions/s-1").status_code == 200

    assert count_records(asked) == ["_find", "_query", "_query"]
    assert [key for name, key in asked if name == "get"] == [QUEUE_KEY]


@pytest.fixture
def console(objects, settings, make_submission, make_task):
    """A function that lets a training print more; it returns the key of the new piece."""
    make_submission()
    make_task()
    ref = AttemptRef(submission_id="s-1", task_id="i5", attempt=1, fence=1)
    printed = []

    def print_more(text):
        key = build_console_key(ref, sum(map(len, printed)))
        objects.put_new(settings.logs_bucket, key, text.encode())
        printed.append(text)
        return key

    return print_more


def test_an_open_log_reads_what_is_new_and_nothing_twice(engineer, console, asked):
    address = "/submissions/s-1/tasks/i5/log"
    console("one\n")
    assert "<li>one</li>" in engineer.get(address).text
    second = console("two\n")
    asked.clear()

    shown = engineer.get(address).text

    assert "<li>one</li>" in shown
    assert "<li>two</li>" in shown
    assert [key for name, key in asked if name == "get"] == [second]
    assert count_records(asked) == ["_find", "_find"]


def test_what_is_kept_of_objects_has_a_limit(objects):
    size = KEPT_BYTES // 4
    for number in range(8):
        objects.put("b", f"k{number}", bytes([number]) * size)
        assert objects.get_unchanging("b", f"k{number}", max_bytes=size)[0] == number
    objects.objects.clear()

    kept = [number for number in range(8) if objects._kept.find(("b", f"k{number}")) is not None]

    assert kept == [4, 5, 6, 7]
