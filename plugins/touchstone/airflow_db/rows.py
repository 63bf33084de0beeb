"""What runs and task instances of ours are told by."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import TaskInstanceState
from sqlalchemy import and_, func

from touchstone.core.pools import QUEUE_POOL
from touchstone.core.records.tasks import Task
from touchstone_agent.protocol.messages import SlotClass

DAG_ID = "touchstone"
TRAINING = "train"
VALIDATION = "validate"
PLAN = "plan"
EVALUATE = "evaluate"

SUSPENDED_UNTIL = datetime(9000, 1, 1, tzinfo=UTC)
"""The start of a suspended run: Airflow itself never starts it."""

ASKED_FOR_AT = func.coalesce(DagRun.queued_at, DagRun.start_date, func.now())
IS_WAITING_TRAINING = and_(
    TaskInstance.state.is_not(None),
    TaskInstance.state == TaskInstanceState.SCHEDULED,
    TaskInstance.pool == QUEUE_POOL,
)


def find_instance_key(task: Task) -> tuple[str, str, int]:
    """Return the task instance that waits for a task: run id, Airflow's task id, map index."""
    if task.kind is SlotClass.VALIDATION:
        return task.run_id, VALIDATION, -1
    return task.run_id, TRAINING, task.map_index
