"""What runs and task instances of ours are told by."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import TaskInstanceState
from sqlalchemy import and_, func

from touchstone.core.pools import QUEUE_POOL

DAG_ID = "touchstone"
TRAINING = "train"
VALIDATION = "validate"
PLAN = "plan"
EVALUATE = "evaluate"

PARKED_UNTIL = datetime(9000, 1, 1, tzinfo=UTC)
"""When a parked run is to be started: never by Airflow itself."""

ASKED_FOR_AT = func.coalesce(DagRun.queued_at, DagRun.start_date, func.now())
IS_WAITING_TRAINING = and_(
    TaskInstance.state.is_not(None),
    TaskInstance.state == TaskInstanceState.SCHEDULED,
    TaskInstance.pool == QUEUE_POOL,
)
