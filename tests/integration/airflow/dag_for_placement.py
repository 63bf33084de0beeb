"""Some trainings that wait for a server, and nothing else; the records are made beforehand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG

from touchstone.airflow_db.rows import DAG_ID, TRAINING
from touchstone.core.pools import QUEUE_POOL
from touchstone.operators.agent import AttemptOperator

TASKS = 25

with DAG(
    DAG_ID,
    schedule=None,
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_tasks=4096,
    is_paused_upon_creation=False,
):
    AttemptOperator.partial(
        task_id=TRAINING, pool=QUEUE_POOL, retries=20, retry_delay=timedelta(seconds=3)
    ).expand(interval=[number + 1 for number in range(TASKS)])
