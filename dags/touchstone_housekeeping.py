"""
The DAG ``touchstone_housekeeping``: ends pods that no attempt needs, when an admin triggers it.

The dispatcher looks by itself, every ``TOUCHSTONE_RUNPOD_REAP_SECONDS``. Nothing depends on this
DAG: pausing or deleting it stops no looking.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG

from touchstone.operators.housekeeping import ReapOperator

with DAG(
    dag_id="touchstone_housekeeping",
    description="End pods that no attempt needs, and settle their costs, now.",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "touchstone", "retries": 2, "retry_delay": timedelta(seconds=5)},
    dagrun_timeout=timedelta(minutes=10),
    tags=["touchstone"],
) as dag:
    ReapOperator(task_id="reap", execution_timeout=timedelta(minutes=5))
