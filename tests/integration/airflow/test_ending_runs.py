"""Runs that are ended by hand, with a scheduler at work on the same run."""

from __future__ import annotations

import pytest
from airflow.models.dagbag import DBDagBag
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from sqlalchemy import select

from touchstone.airflow_db import runs
from touchstone.airflow_db.rows import EVALUATE, TRAINING


def read_states(run_id):
    with create_session() as session:
        instances = session.scalars(select(TaskInstance).filter_by(run_id=run_id))
        return {instance.task_id: instance.state for instance in instances}


@pytest.mark.parametrize("state", [None, "scheduled", "queued", "running", "up_for_retry"])
def test_a_run_is_failed_with_what_runs_and_with_its_last_task(with_dag, state):
    with_dag.add("s-1", TRAINING, state="deferred")
    with_dag.add("s-1", EVALUATE, state=state)
    with_dag.add("s-2", TRAINING, state="deferred")

    assert runs.fail_runs(["s-1", "unknown"]) == ["s-1"]

    assert runs.find_run_states(["s-1", "s-2"]) == {"s-1": "failed", "s-2": "running"}
    assert read_states("s-1") == {TRAINING: "failed", EVALUATE: "failed"}
    assert runs.fail_runs(["s-1"]) == [], "it has ended"


def test_what_has_ended_in_a_run_keeps_its_end(with_dag):
    with_dag.add("s-1", TRAINING, state="success")
    with_dag.add("s-1", EVALUATE, state="success")

    assert runs.fail_runs(["s-1"]) == ["s-1"]

    assert read_states("s-1") == {TRAINING: "success", EVALUATE: "success"}


@pytest.mark.parametrize("training", ["deferred", "scheduled"])
def test_a_scheduler_that_had_the_run_in_hand_does_not_make_it_a_success(with_dag, training):
    """It saw the run going on, and sees the tasks as they are now: on SQLite nothing is locked."""
    with_dag.add("s-1", TRAINING, state=training)
    with_dag.add("s-1", EVALUATE, state=None)
    with create_session(scoped=False) as session:
        run = session.scalar(select(DagRun).filter_by(run_id="s-1"))
        run.dag = DBDagBag().get_dag_for_run(run, session=session)

        assert runs.fail_runs(["s-1"]) == ["s-1"]
        assert run.state == "running", "it is in hand as it was"
        run.update_state(session=session)
        session.commit()

    assert runs.find_run_states(["s-1"]) == {"s-1": "failed"}
