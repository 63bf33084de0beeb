"""The example of programs in a DAG of one's own."""

from __future__ import annotations

import runpy
from pathlib import Path

DAG_FILE = Path(__file__).parents[2] / "dags" / "examples" / "touchstone_operators.py"


def test_it_is_off_until_somebody_wants_it_and_holds_slots_where_it_runs() -> None:
    dag = runpy.run_path(str(DAG_FILE), run_name="dag_file")["dag"]

    assert dag.is_paused_upon_creation is True
    assert dag.schedule is None
    assert {task.task_id: task.pool for task in dag.tasks} == {
        "on_server": "local",
        "in_pod": "runpod",
    }
