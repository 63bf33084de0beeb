"""The dispatcher's questions to Airflow's tables, which hold all that has ever been."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from airflow import settings
from sqlalchemy import event, text

from integration.airflow.conftest import use_real
from integration.airflow.database import RealAirflow
from touchstone.airflow_db import pools, runs

NARROW = r"\b(id|rowid|run_id|state|run_after)(=\?|>)"
"""What leaves but few runs or task instances: which they are, or that they have not ended."""
OF_RUNS = r"\brun_id=\?"


@pytest.fixture
def sqlite_airflow(request) -> Iterator[RealAirflow]:
    with use_real(request, "sqlite") as airflow:
        yield airflow


@pytest.mark.parametrize(
    ("ask", "narrow"),
    [
        (pools.read_instances, NARROW),
        (runs.read_early_runs, NARROW),
        (runs.release_suspended, NARROW),
        (lambda: runs.find_run_states(["a", "b"]), OF_RUNS),
        (lambda: runs.find_ended_instances(["a", "b"]), OF_RUNS),
        (lambda: runs.find_submitter("a"), OF_RUNS),
    ],
    ids=["instances", "early runs", "suspended runs", "run states", "ended instances", "submitter"],
)
@pytest.mark.usefixtures("sqlite_airflow")
def test_no_question_makes_sqlite_go_through_what_has_ended(ask, narrow) -> None:
    """It takes the first index that begins with what is asked for, knowing nothing of the rows."""
    plans: list[str] = []

    def explain(connection, cursor, statement, parameters, context, many) -> None:
        if statement.startswith("SELECT"):
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.extend(str(row[3]) for row in cursor.fetchall())

    engine = settings.engine
    event.listen(engine, "before_cursor_execute", explain)
    try:
        ask()
    finally:
        event.remove(engine, "before_cursor_execute", explain)

    of_history = [plan for plan in plans if re.search(r"\b(dag_run|task_instance)\b", plan)]
    assert of_history
    assert [plan for plan in of_history if not re.search(narrow, plan)] == []


def test_a_question_that_goes_through_everything_would_be_seen(sqlite_airflow) -> None:
    with settings.engine.connect() as connection:
        found = connection.execute(
            text("EXPLAIN QUERY PLAN SELECT id FROM dag_run WHERE dag_id = 'x' AND conf IS NULL")
        )
        (plan,) = (str(row[3]) for row in found)
    assert not re.search(NARROW, plan), plan
