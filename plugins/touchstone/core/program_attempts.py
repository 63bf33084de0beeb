"""
How the record of a program changes beside what holds for every task. Pure.

As in ``core.attempts``, a function takes the task as it is and returns it as it becomes, or
``None`` when there is nothing to change.
"""

from __future__ import annotations

from datetime import datetime

from touchstone.core.attempts import new_task, renew_task
from touchstone.core.programs import ProgramInstance
from touchstone.core.records.stored import set_all
from touchstone.core.records.tasks import Task
from touchstone.core.states import TaskStatus
from touchstone.core.tasks import TaskSpec


def find_instance(task: Task) -> ProgramInstance:
    """
    Return the task instance that waits for a program.

    :raises ValueError: If the task is none.
    """
    program = task.spec.program
    if program is None:
        raise ValueError(f"{task.name} is of a submission")
    return program.dag_id, task.run_id, program.task_id, task.map_index


def new_program(spec: TaskSpec, *, run_id: str, map_index: int, now: datetime) -> Task:
    """Return the record of a program that waits for its first attempt."""
    return new_task(spec, run_id=run_id, map_index=map_index, now=now)


def want_program(
    task: Task, spec: TaskSpec, *, attempt: int, run_began_at: datetime | None
) -> Task | None:
    """
    Say what the record of a program becomes when a try of its task instance wants it.

    What an earlier try has run into stays on record. A run that was deleted leaves its record, too,
    and its start time distinguishes it from another of the same id.

    :param spec: What is to run; the DAG may have been changed since.
    :param attempt: Airflow's number of the try.
    :param run_began_at: When the DAG run began; ``None`` if Airflow does not say.
    """
    newest, map_index = task.newest, task.map_index
    is_of_another = (
        newest.number >= attempt
        and run_began_at is not None
        and newest.intent_at is not None
        and newest.intent_at < run_began_at
    )
    if is_of_another:
        return renew_task(task, spec, run_id=task.run_id, map_index=map_index)
    if task.spec == spec or newest.number == attempt:
        return None  # a try that is under way runs what it began with
    return task.change(spec=set_all(spec))


def close_program(task: Task, *, fence: int, now: datetime) -> Task | None:
    """
    Say what a program becomes when all that it has left is stored.

    :return: ``None`` if that is not so, or another attempt has taken its place.
    """
    if task.fence != fence or task.status is not TaskStatus.UPLOADING:
        return None
    if task.newest.uploaded_at is None:
        return None
    return task.advance(TaskStatus.SUCCESS, ended_at=now)
