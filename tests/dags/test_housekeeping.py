"""The DAG by which people ask for a look at all pods."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from touchstone.settings import get_settings

DAG_FILE = Path(__file__).parents[2] / "dags" / "touchstone_housekeeping.py"


@pytest.fixture
def load(monkeypatch):
    """Load the file under environment variables."""

    def run(**environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        get_settings.cache_clear()
        return runpy.run_path(str(DAG_FILE), run_name="dag_file")["dag"]

    yield run
    get_settings.cache_clear()


@pytest.mark.parametrize("environment", [{}, {"TOUCHSTONE_RUNPOD_CONN_ID": "runpod"}])
def test_it_is_there_to_be_asked_by_hand_and_nothing_depends_on_it(load, environment):
    """Whoever paused it, or deleted it, stopped the reaper: pods were billed for ever."""
    dag = load(**environment)

    assert dag.schedule is None
    assert (dag.catchup, dag.max_active_runs) == (False, 1)
    # A look that hangs must not keep the next one away for long.
    assert dag.get_task("reap").execution_timeout < dag.dagrun_timeout


def test_parsing_imports_neither_the_sdk_nor_a_client():
    code = (
        f"import runpy, sys; runpy.run_path({str(DAG_FILE)!r});"
        "print(sorted({'runpod', 'asyncssh', 'boto3', 'httpx'} & set(sys.modules)))"
    )
    before = "import sys; from airflow.sdk import DAG; print(sorted({'httpx'} & set(sys.modules)))"
    outputs = [
        subprocess.run(
            [sys.executable, "-c", text], capture_output=True, text=True, check=True
        ).stdout.split("\n")[-2]
        for text in (code, before)
    ]
    assert outputs[0] == outputs[1], "more than Airflow itself imports"
