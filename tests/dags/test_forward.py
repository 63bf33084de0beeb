"""The DAG that looks once a day whose models are to be scored on newer rows."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from airflow.sdk.exceptions import DagRunTriggerException

from touchstone.core.acts import DAG_IDS

DAG_FILE = Path(__file__).parents[2] / "dags" / "touchstone_forward.py"


def load():
    return runpy.run_path(str(DAG_FILE), run_name="dag_file")["dag"]


def test_it_looks_once_a_day_one_look_at_a_time_and_makes_up_for_none():
    dag = load()

    assert dag.dag_id in DAG_IDS
    assert dag.schedule == "@daily"
    assert (dag.catchup, dag.max_active_runs) == (False, 1)
    assert dag.get_task("want").execution_timeout < dag.dagrun_timeout
    assert dag.get_task("want").downstream_task_ids == {"start"}


def test_each_run_is_started_once_and_the_others_are_not_waited_for():
    start = load().get_task("start")

    assert start.is_mapped
    given = start.partial_kwargs
    assert given["trigger_dag_id"] == "touchstone"
    # Who died between the start of two runs starts the second one only.
    assert given["skip_when_already_exists"] is True
    assert (given["reset_dag_run"], given["wait_for_completion"]) == (False, False)
    # Neither id nor conf is anybody's but the step's that has put them on record.
    assert not {"trigger_run_id", "conf"} & set(given)


def test_a_run_is_triggered_by_the_id_and_conf_that_are_on_record():
    conf = {"replay": "mine/i5", "data_version": "2018-03"}
    start = load().get_task("start").unmap({"trigger_run_id": "forward-x", "conf": conf})

    with pytest.raises(DagRunTriggerException) as caught:
        start.execute({"ti": None, "task": start})

    asked = caught.value
    assert (asked.trigger_dag_id, asked.dag_run_id) == ("touchstone", "forward-x")
    assert (asked.conf, asked.logical_date) == (conf, None)


def test_parsing_imports_no_client_of_a_store():
    code = (
        f"import runpy, sys; runpy.run_path({str(DAG_FILE)!r});"
        "print(sorted({'boto3', 'botocore', 'pandas', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[-2] == "[]"
