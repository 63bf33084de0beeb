"""Task instances of other DAGs, on each database."""

from __future__ import annotations

from touchstone.airflow_db import programs
from touchstone.airflow_db.rows import DAG_ID, TRAINING


def test_what_has_ended_or_is_not_there_is_found_on_each_database(real_airflow):
    at_work = real_airflow.add("s-1", map_index=0)
    ended = real_airflow.add("s-1", map_index=1)
    cleared = real_airflow.add("s-2", map_index=0)
    real_airflow.change(at_work, state="deferred")
    real_airflow.change(ended, state="failed")
    real_airflow.change(cleared, state=None)

    def find(*instances):
        return programs.find_gone(set(instances))

    gone = {
        (DAG_ID, "s-1", TRAINING, 1),
        (DAG_ID, "s-1", TRAINING, 7),
        (DAG_ID, "s-9", TRAINING, 0),
        ("other", "s-1", TRAINING, 0),
        (DAG_ID, "s-1", "other", 0),
    }
    there = {(DAG_ID, "s-1", TRAINING, 0), (DAG_ID, "s-2", TRAINING, 0)}
    assert find(*gone, *there) == gone
    assert find() == set()


def test_more_runs_than_a_statement_takes_are_asked_for_in_parts(real_airflow, monkeypatch):
    monkeypatch.setattr(programs, "_AT_A_TIME", 2)
    for number in range(5):
        real_airflow.add(f"s-{number}", map_index=0)

    wanted = {(DAG_ID, f"s-{number}", TRAINING, 0) for number in range(7)}
    assert programs.find_gone(wanted) == {(DAG_ID, f"s-{n}", TRAINING, 0) for n in (5, 6)}
