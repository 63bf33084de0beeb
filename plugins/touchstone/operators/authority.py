"""What a task instance may work on: found by records, and by nothing that Airflow's users write."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from airflow.sdk.exceptions import AirflowFailException

from touchstone.core.authority import Run, build_run, find_objection
from touchstone.core.names import VALIDATION_TASK_ID, build_task_id
from touchstone.core.schedule import MAX_INTERVAL
from touchstone.settings import get_settings

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.types import RuntimeTaskInstanceProtocol

    from touchstone.core.records.submissions import Submission
    from touchstone.core.records.tasks import Task
    from touchstone.core.tasks import TaskSpec
    from touchstone.stores.records import RecordStore

_FOLD: Final = re.compile(r"([1-9][0-9]{0,2}) fold [0-9]", re.ASCII)


def get_run(context: Context) -> Run:
    """Return the run that a task instance belongs to."""
    dag_run = context["dag_run"]
    return build_run(
        str(dag_run.run_id),
        conf=dag_run.conf,
        user=getattr(dag_run, "triggering_user_name", None),
    )


def get_submission_of_run(records: RecordStore, run: Run) -> Submission:
    """
    Return the submission that a run may work on.

    :raises AirflowFailException: If it may work on none.
    """
    found = records.find_submission(run.submission_id) if run.submission_id else None
    return _check(found, run)


def change_submission_of_run(
    records: RecordStore, run: Run, decide: Callable[[Submission], Submission | None]
) -> Submission:
    """
    Change the submission that a run may work on, and return the changed one.

    :param decide: As for :meth:`touchstone.stores.records.RecordStore.change_submission`.
    :raises AirflowFailException: If the run may work on none, by the record that would be changed.
    """
    submission_id = get_submission_of_run(records, run).submission_id
    return records.change_submission(submission_id, lambda found: decide(_check(found, run)))


def get_task_of_instance(
    records: RecordStore, run: Run, *, interval: object, map_index: int
) -> Task:
    """
    Return the task that a task instance may work on.

    :param interval: As :func:`read_interval` takes it; ``None`` for the validation.
    :param map_index: Index of the task instance, -1 for a single one.
    :raises AirflowFailException: If its run may work on none, or has none on record for it.
    """
    submission_id = get_submission_of_run(records, run).submission_id
    task_id = VALIDATION_TASK_ID if interval is None else _build_task_id(read_interval(interval))
    task = records.find_task(submission_id, task_id)
    if task is None or (task.run_id, task.map_index) != (run.run_id, map_index):
        step = "register" if interval is None else "plan"
        raise AirflowFailException(
            f"{submission_id}/{task_id} is not on record for instance {map_index} of run "
            f"{run.run_id}; clear the task {step!r} to put it there"
        )
    return task


def name_training(spec: TaskSpec) -> int | str:
    """Return what ``plan`` leaves of a training in an XCom: its interval, and of folds which."""
    assert spec.interval is not None  # noqa: S101 - a validation is not expanded over
    return spec.interval if spec.fold is None else f"{spec.interval} fold {spec.fold.number}"


def _build_task_id(name: int | str) -> str:
    if isinstance(name, int):
        return build_task_id(name)
    interval, _, fold = name.partition(" fold ")
    return build_task_id(int(interval), int(fold))


def read_interval(value: object) -> int | str:
    """
    Return a prediction interval out of what ``plan`` has left in an XCom; of a fold, its name.

    :raises AirflowFailException: If another value is stored there.
    """
    if isinstance(value, str):
        found = _FOLD.fullmatch(value)
        if found and int(found[1]) <= MAX_INTERVAL:
            return value
    if isinstance(value, Mapping):
        # A run that was planned by the version before carries whole specifications.
        value = value.get("interval")
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_INTERVAL:
        raise AirflowFailException(
            f"interval: {str(value)[:40]!r} is not a whole number of bars from 1 to "
            f"{MAX_INTERVAL}; clear the task 'plan' to plan it again"
        )
    return value


def get_map_index(ti: RuntimeTaskInstanceProtocol) -> int:
    """Return the index of a task instance; -1 for a single one."""
    return -1 if ti.map_index is None else int(ti.map_index)


def _check(found: Submission | None, run: Run) -> Submission:
    objection = find_objection(found, run, get_settings().admins)
    if objection is not None:
        raise AirflowFailException(f"nothing was changed: {objection}")
    assert found is not None  # noqa: S101 - there is always an objection to none
    return found
