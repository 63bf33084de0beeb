"""Workers without an executor: they take queued task instances and run the real operator."""

from __future__ import annotations

import json
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from airflow.models.dagrun import DagRun
from airflow.models.task_state_store import TaskStateStoreModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskreschedule import TaskReschedule
from airflow.models.trigger import Trigger
from airflow.sdk.exceptions import AirflowRescheduleException, TaskDeferred
from airflow.utils.session import create_session
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from touchstone.airflow_db.pools import PLACEMENT_KEY
from touchstone.airflow_db.rows import DAG_ID, TRAINING
from touchstone.operators.agent import AttemptOperator

_POLL_SECONDS = 0.2


class Workers:
    """
    Does what a worker and the execution API do for a task instance up to its deferral.

    :param threads: How many at a time.
    """

    def __init__(self, *, threads: int = 4) -> None:
        self._pool = ThreadPoolExecutor(threads)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self.faults: list[str] = []

    def start(self) -> None:
        """Begin to take what is queued."""
        self._thread.start()

    def stop(self) -> None:
        """Take nothing more."""
        self._stopping.set()
        self._thread.join()
        self._pool.shutdown(cancel_futures=True)

    def _poll(self) -> None:
        while not self._stopping.wait(_POLL_SECONDS):
            try:
                with create_session(scoped=False) as session:
                    queued = session.scalars(
                        select(TaskInstance.id).where(
                            TaskInstance.dag_id == DAG_ID,
                            TaskInstance.task_id == TRAINING,
                            TaskInstance.state == "queued",
                        )
                    ).all()
                list(self._pool.map(self._run, queued))
            except Exception:
                self.faults.append(traceback.format_exc())

    def _run(self, ti_id: Any) -> None:
        with create_session(scoped=False) as session:
            if not _change(session, ti_id, "queued", state="running", start_date=datetime.now(UTC)):
                return
        with create_session(scoped=False) as session:
            row = session.execute(
                select(
                    TaskInstance.run_id,
                    TaskInstance.map_index,
                    TaskInstance.try_number,
                    TaskInstance.max_tries,
                    DagRun.id,
                    DagRun.conf,
                    DagRun.triggering_user_name,
                )
                .join(TaskInstance.dag_run)
                .where(TaskInstance.id == ti_id)
            ).one()
            value = session.scalar(
                select(TaskStateStoreModel.value).where(
                    TaskStateStoreModel.dag_run_id == row[4],
                    TaskStateStoreModel.task_id == TRAINING,
                    TaskStateStoreModel.map_index == row[1],
                    TaskStateStoreModel.key == PLACEMENT_KEY,
                )
            )
        run_id, map_index, try_number, max_tries, _, conf, user = row
        operator = AttemptOperator(task_id=TRAINING, interval=map_index + 1)
        run = SimpleNamespace(run_id=run_id, conf=conf, triggering_user_name=user)
        ti = SimpleNamespace(
            id=ti_id,
            run_id=run_id,
            try_number=try_number,
            map_index=map_index,
            max_tries=max_tries,
        )
        store = {"placement": json.loads(value) if value else None}
        try:
            operator.execute({"dag_run": run, "ti": ti, "task_state_store": store})  # type: ignore[typeddict-unknown-key,typeddict-item]
        except TaskDeferred as deferral:
            self._defer(ti_id, deferral)
        except AirflowRescheduleException as again:
            self._reschedule(ti_id, again)
        except Exception:
            self.faults.append(traceback.format_exc())
        else:
            self.faults.append(f"{run_id}/{map_index} try {try_number} had nothing left to do")

    def _defer(self, ti_id: Any, deferral: TaskDeferred) -> None:
        classpath, arguments = deferral.trigger.serialize()
        with create_session(scoped=False) as session:
            trigger = Trigger(classpath=classpath, kwargs=arguments)
            session.add(trigger)
            session.flush()
            # In one transaction: a triggerer removes triggers that no task instance names.
            _change(
                session,
                ti_id,
                "running",
                state="deferred",
                trigger_id=trigger.id,
                next_method=deferral.method_name,
            )

    def _reschedule(self, ti_id: Any, again: AirflowRescheduleException) -> None:
        now = datetime.now(UTC)
        with create_session(scoped=False) as session:
            session.add(
                TaskReschedule(
                    ti_id=ti_id,
                    start_date=now,
                    end_date=now,
                    reschedule_date=again.reschedule_date,
                )
            )
            _change(session, ti_id, "running", state="up_for_reschedule")


def _change(session: Session, ti_id: Any, expected: str, **values: Any) -> bool:
    changed = session.execute(
        update(TaskInstance)
        .where(TaskInstance.id == ti_id, TaskInstance.state == expected)
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    return bool(changed.rowcount)  # type: ignore[attr-defined]
