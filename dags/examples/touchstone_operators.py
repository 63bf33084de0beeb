"""
The DAG ``touchstone_operators``: a program on one of the team's servers, then one in a pod.

An example to copy from, and off until somebody unpauses it. It takes nothing of the DAG
``touchstone``: both tasks run the trainer image's own command, on a module that is in the image.
[docs/operators.md](../../docs/operators.md) tells what the two operators take and leave.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Param

from touchstone.operators.programs import AgentOperator, RunPodOperator

SERVER = "local"
TRAIN = [
    "train",
    *("--config", "fast.toml", "--feature-set", "elnigma.features.reference"),
    *("--prediction-interval", "5", "--out", "{out}"),
    *("--config_override", "training.epochs={{ params.epochs }}"),
    *("--config_override", "training.patience=0"),
]

with DAG(
    dag_id="touchstone_operators",
    description="An example: a program on a server, then one in a pod.",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    is_paused_upon_creation=True,
    default_args={"owner": "touchstone", "retries": 1, "retry_delay": timedelta(seconds=30)},
    params={"epochs": Param(2, type="integer", minimum=1, maximum=10_000, title="Epochs")},
    tags=["touchstone", "example"],
) as dag:
    on_server = AgentOperator(task_id="on_server", server=SERVER, command=TRAIN, max_hours=1)
    in_pod = RunPodOperator(
        task_id="in_pod",
        command=TRAIN,
        gpu=["NVIDIA L4", "RTX 4090"],
        max_price=1,
        budget=5,
        max_hours=1,
    )
    on_server >> in_pod
