"""Task instances of other DAGs, whose programs Touchstone runs."""

from __future__ import annotations

from collections.abc import Collection

from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import State
from sqlalchemy import select, tuple_

from touchstone.core.programs import ProgramInstance

_AT_A_TIME = 200
"""Databases bound how many values a statement may have."""


def find_gone(instances: Collection[ProgramInstance]) -> set[ProgramInstance]:
    """
    Return the task instances that have ended or are not there.

    Cleared ones wait again, and are not among them.

    :param instances: DAG, run, task and map index each.
    """
    wanted = set(instances)
    runs = sorted({(dag_id, run_id) for dag_id, run_id, _, _ in wanted})
    at_work: set[ProgramInstance] = set()
    with create_session() as session:
        for first in range(0, len(runs), _AT_A_TIME):
            rows = session.execute(
                select(
                    TaskInstance.dag_id,
                    TaskInstance.run_id,
                    TaskInstance.task_id,
                    TaskInstance.map_index,
                    TaskInstance.state,
                ).where(
                    tuple_(TaskInstance.dag_id, TaskInstance.run_id).in_(
                        runs[first : first + _AT_A_TIME]
                    )
                )
            ).all()
            at_work |= {
                (dag_id, run_id, task_id, map_index)
                for dag_id, run_id, task_id, map_index, state in rows
                if state not in State.finished
            }
    return wanted - at_work
