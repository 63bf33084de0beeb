"""Runs kept from beginning, on Airflow's own tables, as its own scheduler sees them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from airflow.models.dag import DagModel
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from sqlalchemy import delete, select

from touchstone.airflow_db import runs
from touchstone.airflow_db.rows import DAG_ID, SUSPENDED_UNTIL
from touchstone.core.throttling import THROTTLED_UNTIL, EarlyRun


def add_run(run_id, *, state="queued", user="ann", **fields):
    """Trigger a run, as the REST API does; return Airflow's number of it."""
    asked_at = datetime.now(UTC) - timedelta(minutes=1)
    with create_session() as session:
        run = DagRun(
            dag_id=DAG_ID, run_id=run_id, run_type="manual", state=state, run_after=asked_at
        )
        run.triggering_user_name, run.queued_at = user, asked_at
        for name, value in fields.items():
            setattr(run, name, value)
        session.add(run)
        session.flush()
        return run.id


def read_run(pk):
    with create_session() as session:
        return session.execute(select(DagRun.state, DagRun.run_after).where(DagRun.id == pk)).one()


@pytest.fixture
def known_dag(real_airflow):
    """The DAG as Airflow's scheduler knows it; of one that it does not know it begins nothing."""
    with create_session() as session:
        session.add(DagBundleModel(name="tests"))
        session.flush()
        session.add(DagModel(dag_id=DAG_ID, bundle_name="tests", is_paused=False, is_stale=False))
    yield
    with create_session() as session:
        session.execute(delete(DagModel).where(DagModel.dag_id == DAG_ID))
        session.execute(delete(DagBundleModel).where(DagBundleModel.name == "tests"))


def list_startable():
    """Return what the scheduler would begin now."""
    with create_session() as session:
        runs = DagRun.get_queued_dag_runs_to_set_running(session=session).all()
        return sorted(run.run_id for run in runs)


def test_runs_before_their_trainings_are_told_with_their_submitters(real_airflow):
    queued = add_run("r-1")
    suspended = add_run("r-2", run_after=SUSPENDED_UNTIL)
    tomorrow = add_run("r-7", run_after=datetime.now(UTC) + timedelta(days=1))
    again = add_run("r-3", last_scheduling_decision=datetime.now(UTC))
    real_airflow.add("r-4", "validate")
    real_airflow.add("r-5", "plan", state="success")
    real_airflow.add("r-6", dag_id="other")

    found = {run.pk: run for run in runs.read_early_runs()}

    assert found[queued] == EarlyRun(pk=queued, submitter="ann")
    assert not {suspended, again} & found.keys(), "they have begun before"
    assert tomorrow not in found
    [begun] = [run for run in found.values() if run.has_begun]
    assert begun.submitter == "unknown"
    assert len(found) == 2


def test_a_held_run_is_not_begun_until_it_is_released(known_dag):
    first, second = add_run("r-1"), add_run("r-2")

    assert runs.throttle_runs([first]) == 1
    assert list_startable() == ["r-2"]
    assert {run.pk: run.is_throttled for run in runs.read_early_runs()} == {
        first: True,
        second: False,
    }

    assert runs.release_runs([first, second]) == 1
    assert list_startable() == ["r-1", "r-2"]
    assert read_run(first).run_after < THROTTLED_UNTIL


@pytest.mark.parametrize(
    "fields",
    [
        {"state": "running"},
        {"state": "failed"},
        {"run_after": SUSPENDED_UNTIL},
        {"run_after": datetime.now(UTC) + timedelta(days=1)},
        {"last_scheduling_decision": datetime(2026, 1, 1, tzinfo=UTC)},
    ],
)
def test_what_has_begun_or_waits_for_other_reasons_is_never_held(real_airflow, fields):
    assert runs.throttle_runs([add_run("r-1", **fields)]) == 0


def test_a_run_is_somebodys_until_it_has_ended(real_airflow):
    add_run("r-1", run_after=THROTTLED_UNTIL)
    add_run("r-2", user=None)
    add_run("r-3", state="failed")

    found = [runs.find_submitter(f"r-{number}") for number in range(1, 5)]

    assert found == ["ann", "unknown", None, None]


def test_a_held_run_that_somebody_moved_is_airflows_again(real_airflow):
    """A scheduler that was faster would otherwise have begun it for another age."""
    pk = add_run("r-1")
    runs.throttle_runs([pk])
    assert runs.release_suspended() == 0, "it is still held"
    with create_session() as session:
        session.get(DagRun, pk).state = "running"

    assert runs.release_suspended() == 1
    assert read_run(pk).run_after < THROTTLED_UNTIL
