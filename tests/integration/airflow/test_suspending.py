"""Runs that wait for slots, kept from costing the scheduler anything, and never forgotten."""

from __future__ import annotations

import pytest
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import select

from touchstone.airflow_db import runs
from touchstone.airflow_db.rows import SUSPENDED_UNTIL, VALIDATION
from touchstone.core.pools import FINISH_POOL, PRESTAGED_POOL


def find_run(run_id):
    with create_session() as session:
        return session.execute(
            select(DagRun.id, DagRun.state, DagRun.run_after).where(DagRun.run_id == run_id)
        ).one()


def suspend(airflow, *run_ids):
    with airflow.lock_pools() as locked:
        return locked.suspend([find_run(run_id)[0] for run_id in run_ids])


@pytest.fixture
def waiting(real_airflow):
    """A run all of whose trainings wait; what was before them has ended, what is behind has not."""
    real_airflow.add("r-1", "plan", state="success")
    keys = [real_airflow.add("r-1", map_index=index) for index in range(3)]
    for index in range(3):
        real_airflow.add("r-1", "collect", index, state=None)
    return keys


def test_a_run_whose_trainings_all_wait_is_suspended(real_airflow, waiting):
    assert suspend(real_airflow, "r-1") == 1

    _, state, run_after = find_run("r-1")
    assert (state, run_after) == ("queued", SUSPENDED_UNTIL)
    assert all(instance.is_suspended for instance in real_airflow.read_instances())
    assert all(instance.is_waiting for instance in real_airflow.read_instances())


@pytest.mark.parametrize(
    "change",
    [
        {"state": TaskInstanceState.RUNNING},
        {"state": TaskInstanceState.DEFERRED, "pool": PRESTAGED_POOL},
        {"state": TaskInstanceState.SUCCESS},
        {"state": TaskInstanceState.UP_FOR_RETRY},
        {"state": None},
        {"pool": FINISH_POOL},
    ],
)
def test_a_run_in_which_a_training_has_begun_is_not(real_airflow, waiting, change):
    real_airflow.change(waiting[1], **change)

    assert suspend(real_airflow, "r-1") == 0
    assert find_run("r-1")[1] == "running"


@pytest.mark.parametrize("state", ["scheduled", "running", "up_for_retry"])
def test_a_run_with_something_else_to_do_is_not(real_airflow, waiting, state):
    real_airflow.add("r-1", VALIDATION, state=state)

    assert suspend(real_airflow, "r-1") == 0


def test_placing_one_of_its_trainings_lets_a_run_go_on(real_airflow, waiting):
    suspend(real_airflow, "r-1")
    real_airflow.create_pool("rio", 1, "")
    instance = next(item for item in real_airflow.read_instances() if item.key == waiting[0])

    with real_airflow.lock_pools() as locked:
        assert locked.place(instance, "rio", {"server": "rio"})

    _, state, run_after = find_run("r-1")
    assert state == "running"
    assert run_after < SUSPENDED_UNTIL


@pytest.mark.parametrize(
    "change", [{"state": None}, {"state": TaskInstanceState.FAILED}, {"pool": FINISH_POOL}]
)
def test_a_suspended_run_that_a_user_touched_is_airflows_again(real_airflow, waiting, change):
    """It would never be started: Airflow leaves alone what is to start in another age."""
    suspend(real_airflow, "r-1")
    real_airflow.change(waiting[0], **change)

    assert runs.release_suspended() == 1
    assert find_run("r-1")[2] < SUSPENDED_UNTIL


def test_a_suspended_run_that_still_waits_stays_suspended(real_airflow, waiting):
    suspend(real_airflow, "r-1")

    assert runs.release_suspended() == 0
    assert find_run("r-1")[2] == SUSPENDED_UNTIL


def test_a_suspended_run_that_was_ended_is_shown_when_it_was_asked_for(real_airflow, waiting):
    suspend(real_airflow, "r-1")
    with create_session() as session:
        session.scalar(select(DagRun).where(DagRun.run_id == "r-1")).state = "failed"

    assert runs.release_suspended() == 1
    assert find_run("r-1")[1] == "failed"
