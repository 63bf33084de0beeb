"""Airflow's own tables, filled and changed as its scheduler, workers, triggers and admins do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from airflow import settings
from airflow.models.dagrun import DagRun
from airflow.models.pool import Pool
from airflow.models.task_state_store import TaskStateStoreModel
from airflow.models.taskinstance import TaskInstance
from airflow.sdk import DAG
from airflow.sdk.bases.operator import BaseOperator
from airflow.utils.db import upgradedb
from airflow.utils.session import create_session
from sqlalchemy import delete, select, update

from fakes.airflow_pools import RETRIES
from touchstone.airflow_db import pools
from touchstone.airflow_db.rows import DAG_ID, TRAINING
from touchstone.core.pools import FINISH_POOL, PRESTAGED_POOL, QUEUE_POOL, UNLIMITED

Key = tuple[str, str, int]

CONNECTION = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"


@contextmanager
def use_database(url: str) -> Iterator[None]:
    """Let this process's Airflow work on another database until the block ends."""
    before = os.environ.get(CONNECTION)
    os.environ[CONNECTION] = url
    settings.dispose_orm()
    settings.configure_vars()
    settings.configure_orm()
    try:
        yield
    finally:
        settings.dispose_orm()
        if before is None:
            del os.environ[CONNECTION]
        else:
            os.environ[CONNECTION] = before
        settings.configure_vars()
        settings.configure_orm()


def migrate(url: str) -> str:
    """Make Airflow's tables, as ``airflow db migrate`` does; return the address."""
    with use_database(url):
        upgradedb()
    return url


class RealAirflow:
    """
    What :class:`fakes.airflow_pools.FakeAirflow` is in memory, on Airflow's tables.

    Rows are written through Airflow's models; what the dispatcher does goes through
    ``touchstone.airflow_db`` alone.
    """

    read_instances = staticmethod(pools.read_instances)
    lock_pools = staticmethod(pools.lock_pools)
    read_pools = staticmethod(pools.read_pools)
    create_pool = staticmethod(pools.create_pool)
    set_slots = staticmethod(pools.set_slots)
    exchange_slots = staticmethod(pools.exchange_slots)

    def empty(self) -> None:
        """Forget all runs, task instances and pools; make the pools that are always there."""
        with create_session() as session:
            for model in (TaskStateStoreModel, TaskInstance, DagRun, Pool):
                session.execute(delete(model))
        for name, slots in (
            (QUEUE_POOL, 0),
            (PRESTAGED_POOL, UNLIMITED),
            (FINISH_POOL, UNLIMITED),
        ):
            assert pools.create_pool(name, slots, "")

    def add(
        self,
        run_id: str,
        task_id: str = TRAINING,
        map_index: int = -1,
        *,
        dag_id: str = DAG_ID,
        state: str | None = "scheduled",
    ) -> Key:
        """Schedule a new task instance: it becomes pending."""
        dag = DAG(dag_id, schedule=None)
        task = BaseOperator(task_id=task_id, pool=QUEUE_POOL, retries=RETRIES, dag=dag)
        now = datetime.now(UTC)
        with create_session() as session:
            if session.scalar(select(DagRun.id).filter_by(dag_id=dag_id, run_id=run_id)) is None:
                session.add(
                    DagRun(
                        dag_id=dag_id,
                        run_id=run_id,
                        run_type="manual",
                        state="running",
                        run_after=now,
                        start_date=now,
                    )
                )
                session.flush()
            instance = TaskInstance(
                task,  # type: ignore[arg-type]
                dag_version_id=None,  # type: ignore[arg-type]
                run_id=run_id,
                state=state,
                map_index=map_index,
            )
            instance.try_number, instance.scheduled_dttm = 1, now
            session.add(instance)
        return run_id, task_id, map_index

    def change(self, key: Key, **fields: Any) -> None:
        """Do anything to a task instance, as an admin, a worker or a trigger does."""
        if "is_resuming" in fields:
            fields["next_method"] = "raise_failure" if fields.pop("is_resuming") else None
        with create_session() as session:
            changed = session.execute(
                update(TaskInstance)
                .filter_by(dag_id=DAG_ID, run_id=key[0], task_id=key[1], map_index=key[2])
                .values(**fields)
            )
            assert changed.rowcount == 1  # type: ignore[attr-defined]

    def delete_pool(self, name: str) -> None:
        """Do as an admin on the Pools page."""
        Pool.delete_pool(name)

    def set_include_deferred(self, name: str, include_deferred: bool) -> None:
        """Do as an admin on the Pools page."""
        with create_session() as session:
            session.execute(
                update(Pool).filter_by(pool=name).values(include_deferred=include_deferred)
            )
