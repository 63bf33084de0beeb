"""The DAG by which an admin closes an event."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from airflow.sdk.exceptions import ParamValidationError

DAG_FILE = Path(__file__).parents[2] / "dags" / "touchstone_events.py"


@pytest.fixture(scope="module")
def dag():
    return runpy.run_path(str(DAG_FILE), run_name="dag_file")["dag"]


def test_it_closes_one_event_at_a_time_when_somebody_asks(dag):
    assert dag.schedule is None
    assert (dag.catchup, dag.max_active_runs) == (False, 1)
    (task,) = dag.tasks
    assert task.owner == "touchstone"
    assert task.retries >= 1
    assert task.execution_timeout < dag.dagrun_timeout
    assert dag.tags


@pytest.mark.parametrize("name", ["../x", "a/b", "A", "a" * 41, 5])
def test_what_cannot_be_an_event_is_refused_with_the_form(dag, name):
    with pytest.raises(ParamValidationError):
        dag.params.get_param("event").resolve(name)
