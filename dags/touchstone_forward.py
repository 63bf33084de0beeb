"""
The DAG ``touchstone_forward``: scores models on rows that are newer than they are.

Once a day it looks which submissions were trained on a data set that has a newer version, and
starts a run of the DAG ``touchstone`` for each training whose models were not scored on it yet.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG

from touchstone.operators.forward import WantForwardOperator

with DAG(
    dag_id="touchstone_forward",
    description="Score models on rows that their data sets have gained since.",
    doc_md=__doc__,
    schedule="@daily",
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "touchstone", "retries": 2, "retry_delay": timedelta(seconds=30)},
    dagrun_timeout=timedelta(minutes=60),
    tags=["touchstone"],
) as dag:
    want = WantForwardOperator(task_id="want", execution_timeout=timedelta(minutes=20))
    TriggerDagRunOperator.partial(
        task_id="start",
        trigger_dag_id="touchstone",
        # One that was started before is started once.
        skip_when_already_exists=True,
        reset_dag_run=False,
        # Of two runs of one date, the second would be taken for the first.
        logical_date=None,
        wait_for_completion=False,
        map_index_template="{{ task.trigger_run_id }}",
    ).expand_kwargs(want.output)
