"""A DAG that has nothing to do with Touchstone, and wants its turn all the same."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import dag, task


@dag(schedule=None, start_date=datetime(2024, 1, 1, tzinfo=UTC))
def other() -> None:
    """One task of a worker."""

    @task
    def probe() -> None:
        pass

    probe()


other()
