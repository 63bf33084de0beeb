"""The DAG ``touchstone_housekeeping``: what is done from time to time, whatever is submitted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG

from touchstone.operators.housekeeping import ReapOperator
from touchstone.settings import get_settings

SETTINGS = get_settings().runpod
EVERY = timedelta(seconds=SETTINGS.reap_seconds)

with DAG(
    dag_id="touchstone_housekeeping",
    description="End pods that nobody waits for, and settle their accounts.",
    doc_md=__doc__,
    # Without RunPod there is nothing to look at.
    schedule=EVERY if SETTINGS.conn_id else None,
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    # A look that fails is made up for by the next one; only a few in a row are news.
    default_args={"owner": "touchstone", "retries": 2, "retry_delay": timedelta(seconds=5)},
    dagrun_timeout=timedelta(minutes=10),
    tags=["touchstone"],
) as dag:
    ReapOperator(task_id="reap", execution_timeout=timedelta(minutes=5))
