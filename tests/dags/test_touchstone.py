"""The DAG file: imports, wiring, and a form that agrees with what runs accept."""

from __future__ import annotations

import inspect
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from airflow.sdk.definitions.context import Context
from airflow.sdk.definitions.xcom_arg import XComArg
from airflow.sdk.exceptions import ParamValidationError

from touchstone.core.conf import CONF_KEYS, parse_conf
from touchstone.core.pools import FINISH_POOL, QUEUE_POOL
from touchstone.operators.agent import PlacedOperator

DAG_FILE = Path(__file__).parents[2] / "dags" / "touchstone.py"
KNOWN_CONTEXT_KEYS = set(Context.__annotations__)
HEAVY = {"boto3", "botocore", "docker", "keras", "mlflow", "numpy", "pandas", "runpod"}


@pytest.fixture(scope="module")
def dag():
    return runpy.run_path(str(DAG_FILE), run_name="dag_file")["dag"]


def test_the_steps_are_those_of_the_design(dag):
    assert set(dag.task_ids) == {
        *("register", "validate", "accept", "plan", "train", "collect", "judge"),
        "evaluate",
    }
    assert dag.get_task("collect").upstream_task_ids >= {"train"}
    for task_id in ("judge", "evaluate"):
        assert dag.get_task(task_id).trigger_rule == "all_done"
    assert dag.get_task("evaluate").upstream_task_ids == {"collect", "judge"}


def test_every_task_has_owner_tags_and_retries(dag):
    assert dag.tags
    for task in dag.tasks:
        assert task.owner == "touchstone"
        assert task.retries >= 1


def test_what_is_placed_may_go_to_a_pod_and_is_tried_as_long_as_its_ledger_allows(dag):
    for task_id in ("validate", "train"):
        task = dag.get_task(task_id)
        kind = getattr(task, "operator_class", type(task))
        assert issubclass(kind, PlacedOperator)
        assert task.retries == 99


def test_no_callable_has_a_parameter_that_airflow_keeps_for_itself(dag):
    """`run_id` as a parameter made `evaluate` fail before its first line."""
    for task_id in ("accept", "judge", "evaluate"):
        names = set(inspect.signature(dag.get_task(task_id).python_callable).parameters)
        assert not names & KNOWN_CONTEXT_KEYS


def find_taken(task):
    """Return what a task takes from others' XComs: whose, by the argument's name."""
    given = {name: getattr(task, name, None) for name in (*task.template_fields, "op_args")}
    return {
        name: operator.task_id
        for name, value in given.items()
        for operator, _ in XComArg.iter_xcom_references(value)
    }


def test_intervals_to_expand_over_are_all_that_a_task_takes_from_another(dag):
    """Whole specifications travelled by XComs, which users of Airflow may edit."""
    taken = {task.task_id: find_taken(task) for task in dag.tasks}

    assert {name: what for name, what in taken.items() if what} == {
        "train": {"interval": "plan"},
        "collect": {"interval": "plan"},
    }


def test_a_task_that_needs_a_server_is_pending(dag):
    pools = {task.task_id: task.pool for task in dag.tasks}

    assert pools["validate"] == QUEUE_POOL
    assert pools["train"] == QUEUE_POOL
    assert pools["collect"] == FINISH_POOL


def test_the_form_offers_exactly_the_fields_that_runs_accept(dag):
    assert set(dag.params) == set(CONF_KEYS)


def test_every_field_says_what_it_is_for(dag):
    for name, param in dag.params.items():
        resolved = dag.params.get_param(name)
        assert resolved.schema["title"], name
        assert resolved.schema["section"], name
        assert resolved.description or resolved.schema.get("description_md"), name
        del param


def test_a_form_with_only_a_source_filled_in_is_accepted(dag):
    values = dict(dag.params) | {"source": "https://example.org/x.git"}

    assert parse_conf(values).schedule is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("config_overrides", ["a.b=" + "x" * 200_000]),
        ("config_overrides", ["a.b=1"] * 10_000),
        ("passthrough_args", ["x" * 200_000]),
        ("allowed_hosts", ["x" * 200_000]),
        ("gpu_models", ["x"] * 10_000),
        ("source", "https://example.org/" + "x" * 200_000),
        ("source", "https://token@example.org/x.git"),
        ("notes", "x" * 200_000),
        ("intervals", "1," * 100_000 + "1"),
        ("fetched_data_end_to", "2018-01-01" * 100),
        ("max_price", 1e300),
    ],
)
def test_what_is_too_long_is_refused_when_a_run_is_triggered(dag, name, value):
    with pytest.raises(ParamValidationError):
        dag.params.get_param(name).resolve(value)


def test_every_text_and_list_of_the_form_has_an_end(dag):
    for name in dag.params:
        schema = dag.params.get_param(name).schema
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if "string" in kinds:
            assert "maxLength" in schema or "enum" in schema, name
        if "array" in kinds:
            assert "maxItems" in schema, name
            assert "maxLength" in schema["items"], name


def test_parsing_imports_nothing_heavy():
    code = (
        f"import runpy, sys; runpy.run_path({str(DAG_FILE)!r}, run_name='d'); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert not HEAVY & set(done.stdout.split())
