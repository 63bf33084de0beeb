"""
Copies the one deferred training of an Airflow, so that its triggerer waits for many.

Runs in the environment of that Airflow: ``clone_deferred.py FIRST COUNT``.
"""

from __future__ import annotations

import sys
import uuid

from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.utils.session import create_session
from sqlalchemy import insert, select


def clone(first: int, count: int) -> None:
    """Add so many deferred instances, map indexes and records' ids counting from ``first``."""
    table = TaskInstance.__table__
    with create_session() as session:
        row = session.execute(
            select(table).where(table.c.state == "deferred", table.c.task_id == "train")
        ).one()
        trigger = session.get_one(Trigger, row.trigger_id)
        copies = [
            Trigger(
                classpath=trigger.classpath,
                kwargs={**trigger.kwargs, "touchstone_task_id": f"i{first + number}"},
            )
            for number in range(count)
        ]
        session.add_all(copies)
        session.flush()
        session.execute(
            insert(table),
            [
                {
                    **row._mapping,
                    "id": uuid.uuid4(),
                    "map_index": first + number,
                    "trigger_id": copy.id,
                }
                for number, copy in enumerate(copies)
            ],
        )


if __name__ == "__main__":
    clone(int(sys.argv[1]), int(sys.argv[2]))
