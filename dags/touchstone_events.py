"""The DAG ``touchstone_close_event``: closes an event, and judges all that has entered it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Param

from touchstone.core.events import MAX_NAME
from touchstone.core.schedule import EVENT_PATTERN
from touchstone.operators.judging import EVENT, CloseEventOperator

with DAG(
    dag_id="touchstone_close_event",
    description="Close an event: judge everything in it by all that has come. For admins.",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "touchstone", "retries": 2, "retry_delay": timedelta(seconds=5)},
    dagrun_timeout=timedelta(minutes=60),
    params={
        EVENT: Param(
            None,
            type=["null", "string"],
            maxLength=MAX_NAME,
            pattern=EVENT_PATTERN,
            title="Event",
            description="Its name. What has come may only rise by that.",
        ),
    },
    tags=["touchstone"],
) as dag:
    CloseEventOperator(task_id="close", execution_timeout=timedelta(minutes=20))
