"""What peers run: a DockerOperator mapped over many short tasks, in a pool of few slots."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk import DAG

with DAG("handover", schedule=None, start_date=datetime(2024, 1, 1, tzinfo=UTC)):
    DockerOperator.partial(
        task_id="train",
        image=os.environ["BENCH_IMAGE"],
        entrypoint=["sleep"],
        pool="bench",
        network_mode="none",
        mount_tmp_dir=False,
        labels={"bench": os.environ["BENCH_LABEL"]},
    ).expand(command=[os.environ["BENCH_SECONDS"]] * int(os.environ["BENCH_TASKS"]))
