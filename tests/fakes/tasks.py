"""Tasks for tests: written as they are stored, and with fields as they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from touchstone.core.attempts import new_task
from touchstone.core.records.stored import read_time
from touchstone.core.records.tasks import Attempt, Task
from touchstone.core.tasks import TaskSpec
from touchstone.stores.records import RecordStore
from touchstone_agent.protocol.messages import Limits

CREATED_AT = "2026-11-22T12:00:00+00:00"


def build_spec(**fields: Any) -> TaskSpec:
    """Return a training's specification; whatever a test does not say is as for most of them."""
    common = {
        "submission_id": "s-1",
        "task_id": "i5",
        "kind": "training",
        "system": "feature_set",
        "image": "trainer",
        "content_sha256": "0" * 64,
        "content_size": 10,
        "limits": Limits(),
        "interval": 5,
    }
    return TaskSpec.model_validate(common | fields)


def build_task(spec: TaskSpec | None = None, **fields: Any) -> Task:
    """
    Return a task.

    :param spec: What it runs; ``None`` for a training.
    :param fields: Fields of its record, as they are stored.
    """
    spec = spec or build_spec()
    map_index = -1 if spec.interval is None else 0
    run_id = spec.submission_id
    task = new_task(spec, run_id=run_id, map_index=map_index, now=read_time(CREATED_AT))
    return with_fields(task, **fields)


def with_fields(task: Task, **fields: Any) -> Task:
    """Return a task with other fields in its record, as they are stored."""
    return Task.load({**task.dump(), **fields})


def build_attempt(**fields: Any) -> Attempt:
    """Return an attempt with fields as they are stored."""
    return Attempt.load(fields)


def write_task(records: RecordStore, key: tuple[str, str], fields: Mapping[str, Any]) -> None:
    """Write fields into a task's record, as any version might have; they need not make sense."""
    submission_id, task_id = key
    table = records._settings.tasks_table
    record_key = {"submission_id": submission_id, "task_id": task_id}
    records._change(table, record_key, lambda _: dict(fields))


def read_stored(records: RecordStore, submission_id: str, task_id: str) -> dict[str, Any]:
    """Return a task's record as it is stored; empty for none."""
    table = records._settings.tasks_table
    return records._find(table, {"submission_id": submission_id, "task_id": task_id}) or {}


def read_tasks(records: RecordStore, submission_id: str) -> list[Task]:
    """Return a submission's tasks, all of which make sense."""
    return [entry.read() for entry in records.list_tasks(submission_id)]


def store_task(records: RecordStore, fields: Mapping[str, Any]) -> None:
    """Put a task on record, as any version might have."""
    records._create(records._settings.tasks_table, "task_id", dict(fields))


def change_fields(records: RecordStore, submission_id: str, task_id: str, **fields: Any) -> Task:
    """Change fields of a task on record, as they are stored; they must make sense."""

    def decide(task: Task) -> Task:
        return with_fields(task, **fields)

    return records.change_task(submission_id, task_id, decide)
