"""
The DAG ``touchstone_enrol``: lets the servers of a list join, all at once, by SSH.

An example, paused by default: an admin triggers it with a list of servers, each
with the Airflow connection of type ``ssh`` that leads to it. One that cannot be reached, or does
not fit, keeps none of the others away; its task says what to do, and clearing it goes on from
there. It is the same as ``touchstone agent enroll``.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Param

from touchstone.operators.enrolling import (
    MAX_SERVERS,
    SERVER_SCHEMA,
    SERVERS,
    EnrolOperator,
    ListServersOperator,
)

with DAG(
    dag_id="touchstone_enrol",
    description="Let servers join, by SSH.",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    is_paused_upon_creation=True,
    max_active_runs=1,
    max_active_tasks=8,
    default_args={"owner": "touchstone", "retries": 1, "retry_delay": timedelta(seconds=30)},
    params={
        SERVERS: Param(
            [{"server": "gpu-1", "ssh_conn_id": "ssh_gpu_1"}],
            type="array",
            items=SERVER_SCHEMA,
            minItems=1,
            maxItems=MAX_SERVERS,
            title="Servers",
            description="Name and connection of each; slots, images, state_dir as in the manual.",
        )
    },
    tags=["touchstone", "example"],
) as dag:
    servers = ListServersOperator(task_id="list")
    EnrolOperator.partial(
        task_id="enrol",
        map_index_template="{{ params.servers[task.place].server }}",
        execution_timeout=timedelta(minutes=20),
    ).expand(place=servers.output)
