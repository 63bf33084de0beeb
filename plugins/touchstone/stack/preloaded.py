"""
Airflow's scheduler and DAG processor, with what their children need loaded before they begin.

The LocalExecutor's workers are forks of the scheduler, and each task is a fork of one of them; each
DAG file is read in a fork of the DAG processor. What is loaded here once, none of them has to load:
that is more than half of what a short task costs.
"""

from __future__ import annotations

import sys
from importlib import import_module

_DAGS = (
    "touchstone.operators.agent",
    "touchstone.operators.collect",
    "touchstone.operators.housekeeping",
    "touchstone.operators.register",
    "touchstone.operators.submission",
)
_TASKS = (
    "touchstone.hooks.agent",
    "touchstone.confined.archives",
    "touchstone.confined.models",
    "touchstone.hooks.git",
    "touchstone.stores.objects",
    "touchstone.stores.parts",
    "touchstone.stores.records",
    "touchstone.services.starts",
    "touchstone.triggers.agent",
    "airflow.providers.amazon.aws.hooks.base_aws",
    "mlflow.tracking",
)
"""What operators import when they are executed."""
PRELOADED = {"scheduler": _DAGS + _TASKS, "dag-processor": _DAGS}
"""Modules by command; a list saves time and decides nothing else."""


def main() -> None:
    """Load, and go on as ``airflow`` with this process's arguments."""
    from airflow.__main__ import main as run_airflow

    for name in PRELOADED[sys.argv[1]]:
        import_module(name)
    sys.argv[0] = "airflow"
    run_airflow()  # type: ignore[no-untyped-call] # Airflow does not say


if __name__ == "__main__":
    main()
