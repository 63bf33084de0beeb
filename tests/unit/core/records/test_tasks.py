"""Tasks as the version before wrote them are read, changed and written back."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fakes.stores import FakeRecordStore
from fakes.tasks import build_task, read_stored, with_fields, write_task
from touchstone.core import attempts
from touchstone.core.pod_attempts import list_pods, note_bill
from touchstone.core.records.stored import RecordUnreadable
from touchstone.core.records.tasks import Attempt, EndedTask, Task, TaskEntry
from touchstone.core.states import TASK_TERMINAL, TaskStatus
from touchstone.stores.tables import AT_WORK, VERSION
from touchstone_agent.protocol.messages import AttemptPhase

STORED = Path(__file__).parents[3] / "data" / "stored" / "tasks.json"
SAMPLES: dict[str, dict[str, Any]] = json.loads(STORED.read_text())
OF_THE_VERSION_BEFORE = "of the version before"
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
INDEX_KEYS = ("status", "created_at", "submission_id", "task_id")


def to_text(value: object) -> str:
    """Return a value byte for byte as it is shown: 1 and 1.0 are not the same."""
    return json.dumps(value, sort_keys=True)


@pytest.fixture
def records() -> FakeRecordStore:
    return FakeRecordStore()


@pytest.fixture(params=SAMPLES)
def stored(request, records) -> dict[str, Any]:
    """A task on record; it has a field, and a part of one, that only tomorrow knows."""
    found = SAMPLES[request.param] | {"of_tomorrow": {"figures": [1, 2.5, None]}}
    if found["placement"]:
        found["placement"] = found["placement"] | {"of_tomorrow": 1}
    records._put(records._settings.tasks_table, found)
    return found


def key_of(stored: dict[str, Any]) -> tuple[str, str]:
    return stored["submission_id"], stored["task_id"]


def test_there_is_a_sample_of_each_status_and_kind():
    found = SAMPLES.values()
    assert {each["status"] for each in found} >= set(TaskStatus) - {TaskStatus.LOST}
    assert {each["phase"] for each in found} >= {*AttemptPhase, None} - {AttemptPhase.ACCEPTED}
    assert {each["kind"] for each in found} == {"training", "validation"}
    assert any(each["files_part"] for each in found if "files_part" in each)
    assert any(each["config"].get("replay") for each in found)
    assert any(len(each["attempts"]) > attempts.MAX_OUTLINES for each in found)
    assert any((each["pod"] or {}).get("is_billed") for each in found)


@pytest.mark.parametrize("name", sorted(SAMPLES.keys() - {OF_THE_VERSION_BEFORE}))
def test_what_was_stored_is_dumped_byte_for_byte(name):
    assert to_text(Task.load(SAMPLES[name]).dump()) == to_text(SAMPLES[name])


def test_a_flat_specification_is_read_as_what_it_says():
    spec = Task.load(SAMPLES[OF_THE_VERSION_BEFORE]).spec

    assert spec.schedule.config_overrides == ("a.b=1",)
    assert spec.schedule.passthrough_argv == ("--x", "a b")
    assert spec.schedule.gpu_models == ("NVIDIA L4",)
    assert (spec.schedule.seed, spec.schedule.priority) == (3, 2)


def test_a_change_writes_what_differs_and_nothing_else(records, stored):
    before = read_stored(records, *key_of(stored))

    changed = records.change_task(
        *key_of(stored), lambda task: task.advance(console_bytes=123, last_event_at=NOW)
    )

    after = read_stored(records, *key_of(stored))
    expected = before | {
        "console_bytes": 123,
        "last_event_at": NOW.isoformat(),
        VERSION: before[VERSION] + 1,
    }
    assert to_text(after) == to_text(expected)
    assert changed == records.get_task(*key_of(stored))


def test_no_change_is_written_as_none(records, stored):
    for decide in (lambda _: None, lambda task: task):
        records.change_task(*key_of(stored), decide)

    assert read_stored(records, *key_of(stored)) == stored


def test_a_new_attempt_leaves_nothing_of_the_one_before_but_what_is_remembered(records, stored):
    records.change_task(
        *key_of(stored),
        lambda task: attempts.claim_attempt(
            task, attempt=7, server="lima", container_of=lambda _: "c", now=NOW
        ),
    )

    after = read_stored(records, *key_of(stored))
    assert (after["attempt"], after["fence"]) == (7, stored["fence"] + 1)
    names = {field.serialization_alias or name for name, field in Attempt.model_fields.items()} - {
        "attempt",
        "fence",
        "run_id",
        "server",
        "platform",
        "gpus",
        "image",
        "container",
    }
    empty = {"percent": 0, "metrics": {}, "console_bytes": 0, "files": []}
    assert {name: after[name] for name in names - {"intent_at"}} == {
        name: empty.get(name) for name in names - {"intent_at"}
    }
    assert after["of_tomorrow"] == stored["of_tomorrow"]
    assert len(after["attempts"]) <= attempts.MAX_REMEMBERED + attempts.MAX_OUTLINES + 1


def test_a_pod_of_an_older_attempt_changes_and_its_neighbours_do_not(records):
    records._put(records._settings.tasks_table, SAMPLES["pod of an older attempt"])
    stored = read_stored(records, "s-1", "i5")
    (fence, _), *_ = list_pods(Task.load(stored))

    records.change_task(
        *key_of(stored), lambda task: note_bill(task, fence=fence, usd=Decimal("0.10"))
    )

    after = read_stored(records, *key_of(stored))
    pod = stored["attempts"][0]["pod"] | {"usd": "0.10", "is_billed": True}
    expected = stored | {
        "attempts": [stored["attempts"][0] | {"pod": pod}],
        VERSION: stored[VERSION] + 1,
    }
    assert to_text(after) == to_text(expected)


def test_no_key_of_an_index_is_ever_null(records):
    records.create_task(build_task())

    item = records._tables[records._settings.tasks_table]["s-1/i5"]
    assert all("NULL" not in item[name] for name in INDEX_KEYS)
    assert AT_WORK not in item, "an index by it holds what is at work alone"


@pytest.mark.parametrize("name", SAMPLES)
def test_who_is_at_work_is_found_as_such(records, name):
    stored = SAMPLES[name]
    is_open = stored["attempt"] and stored["status"] not in TASK_TERMINAL
    pods = [each.get("pod") for each in (*stored["attempts"], stored)]
    is_billed = any(pod and not pod.get("gone_at") for pod in pods)

    records.create_task(Task.load(stored))

    found = {entry.key for entry in records.list_tasks_at_work()}
    assert (key_of(stored) in found) is bool(is_open or is_billed)


def test_the_ended_are_read_by_what_is_wanted_of_them(records):
    for name, stored in SAMPLES.items():
        told = {"submission_id": f"s-{name.replace(' ', '-')}"}
        records._put(records._settings.tasks_table, stored | told)

    entries = list(records.list_ended_tasks(100))

    ended = [each for each in SAMPLES.values() if each["status"] in TASK_TERMINAL]
    assert len(entries) == len(ended)
    assert {entry.read().newest.outcome for entry in entries} == {each["outcome"] for each in ended}


def test_a_naive_time_is_one_of_utc_and_a_number_is_none():
    task = build_task(intent_at="2026-11-22T12:00:00")
    assert task.newest.intent_at == datetime(2026, 11, 22, 12, tzinfo=UTC)
    with pytest.raises(RecordUnreadable, match=r"task s-1/i5: task record: intent_at: "):
        build_task(intent_at=7)


# --- what makes no sense ------------------------------------------------------------------------

ODD = [
    ({"status": "dancing"}, "status"),
    ({"phase": "dancing"}, "phase"),
    ({"config": None}, "config"),
    ({"fence": "x"}, "fence"),
    ({"pod": {"id": "p"}}, "pod.name"),
    ({"attempts": [{"outcome": "fine"}]}, "attempts.0.outcome"),
    ({"run_id": None}, "run_id"),
]


@pytest.mark.parametrize(("odd", "field"), ODD)
def test_a_record_that_makes_no_sense_is_refused_by_its_name_and_field(records, odd, field):
    records.create_task(build_task())
    write_task(records, ("s-1", "i5"), odd)
    before = read_stored(records, "s-1", "i5")

    for read in (
        lambda: records.get_task("s-1", "i5"),
        lambda: records.find_task("s-1", "i5"),
        lambda: records.change_task("s-1", "i5", lambda task: task.advance(percent=1)),
    ):
        with pytest.raises(RecordUnreadable, match=rf"^task s-1/i5: .*{field}"):
            read()
    assert read_stored(records, "s-1", "i5") == before


@pytest.mark.parametrize(("odd", "field"), ODD)
def test_it_is_in_every_list_and_hides_no_other(records, odd, field):
    records.create_task(build_task(attempt=1, status="running"))
    other = build_task(attempt=1, status="running")
    records.create_task(other.change(task_id="i20", interval=20))
    write_task(records, ("s-1", "i5"), odd)

    for entries in (
        records.list_tasks("s-1"),
        records.list_tasks_at_work(),
        list(records.find_tasks([("s-1", "i5"), ("s-1", "i20")]).values()),
    ):
        by_id = {entry.task_id: entry for entry in entries}
        assert by_id.keys() == {"i5", "i20"}
        assert by_id["i20"].read().interval == 20
        assert by_id["i5"].task is None
        with pytest.raises(RecordUnreadable, match=field):
            by_id["i5"].read()


def test_where_it_may_be_is_known_of_it_as_far_as_it_says():
    def entry(**fields):
        return TaskEntry.parse({**build_task(server="rio").dump(), "status": "?", **fields}, Task)

    assert entry().may_be_on("rio")
    assert not entry().may_be_on("lima")
    assert not entry(server=None).may_be_on("rio")
    assert entry(server=7).may_be_on("rio")
    assert [ref.fence for ref in entry(attempt=1, fence=3).list_refs()] == [3]
    assert entry(fence="x").list_refs() == []


# --- the model itself ---------------------------------------------------------------------------


def test_the_newest_attempt_is_listed_once_and_only_if_there_was_one():
    task = build_task(attempt=2, fence=2, attempts=[{"fence": 1, "attempt": 1}])
    assert [attempt.fence for attempt in task.attempts] == [1, 2]
    assert [a.fence for a in with_fields(task, attempt=0).attempts] == [1]
    listed = [{"fence": 1, "attempt": 1}, {"fence": 2, "attempt": 2}]
    assert [a.fence for a in with_fields(task, attempts=listed).attempts] == [1, 2]


def test_a_field_that_there_is_not_is_refused():
    with pytest.raises(TypeError, match="Attempt has no field colour"):
        build_task().advance(colour="green")
    with pytest.raises(TypeError, match="Task has no field phase"):
        build_task().change(phase="running")


def test_an_ended_task_needs_no_more_than_is_read_of_it():
    stored = SAMPLES["published"]
    wanted = {"submission_id", "task_id", *EndedTask.FIELDS}

    ended = EndedTask.load({name: stored[name] for name in wanted})

    lasted = ended.newest.exited_at - ended.newest.running_at
    assert lasted > timedelta(minutes=50)
    assert ended.newest.placement.estimate.stretch == 1.25
