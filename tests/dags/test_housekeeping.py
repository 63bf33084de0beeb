"""The DAG that looks after what nobody waits for."""

from __future__ import annotations

import runpy
import subprocess
import sys
from datetime import timedelta
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


def test_nothing_is_looked_at_where_nothing_is_rented(load):
    assert load().schedule is None


def test_the_reaper_looks_as_often_as_it_is_told_and_never_twice_at_once(load):
    dag = load(TOUCHSTONE_RUNPOD_CONN_ID="runpod", TOUCHSTONE_RUNPOD_REAP_SECONDS="90")

    assert dag.schedule == timedelta(seconds=90)
    assert (dag.catchup, dag.max_active_runs) == (False, 1)
    # A look that hangs must not keep the next ones away for long.
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
