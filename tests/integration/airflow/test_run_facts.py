"""What is known of a run, and why it failed by its own log, on each database."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.log.file_task_handler import FileTaskHandler
from airflow.utils.log.log_reader import TaskLogReader
from airflow.utils.session import create_session
from sqlalchemy import select, update

from touchstone.airflow_db import run_facts
from touchstone.airflow_db.run_facts import (
    MAX_REASON,
    find_error_line,
    find_failure,
    find_run_facts,
)
from touchstone.airflow_db.starting import start_run

CONF = {"source": "https://example.org/x.git"}
RAISED = {
    "event": "Task failed with exception",
    "level": "error",
    "error_detail": [{"exc_type": "AirflowFailException", "exc_value": "ref: no branch x\nmore"}],
}


def test_a_run_is_found_as_it_was_started(with_dag):
    assert find_run_facts("s-1") is None
    start_run("s-1", CONF, by="ann")

    found = find_run_facts("s-1")

    assert (found.user, found.state, found.conf) == ("ann", "queued", CONF)
    assert found.logical_date is None
    assert found.run_after <= datetime.now(UTC)
    assert found.is_paused, "Airflow's own default, for a DAG that nobody has unpaused"
    with create_session() as session:
        session.execute(update(DagModel).values(is_paused=False))
    assert not find_run_facts("s-1").is_paused
    assert find_run_facts("s-1", "touchstone_close_event") is None


@pytest.mark.parametrize(("is_page", "word"), [(True, "ui"), (False, "rest_api")])
def test_airflow_shows_where_a_run_was_started(with_dag, is_page, word):
    start_run("s-1", CONF, by="ann", is_page=is_page)
    with create_session() as session:
        (how,) = session.scalars(select(DagRun.triggered_by)).all()
    assert how.value == word


@pytest.fixture
def write_log(with_dag, tmp_path, monkeypatch):
    """Return a function that adds a failed task with lines in its log."""
    handler = FileTaskHandler(base_log_folder=str(tmp_path))
    monkeypatch.setattr(TaskLogReader, "log_handler", handler)

    def write(task_id: str, *lines: dict, started: datetime | None, state: str = "failed") -> None:
        with_dag.add("s-1", task_id, state=state)
        with create_session() as session:
            session.execute(
                update(TaskInstance)
                .where(TaskInstance.task_id == task_id)
                .values(start_date=started)
            )
            instance = session.scalar(select(TaskInstance).filter_by(task_id=task_id))
            path = Path(tmp_path, handler._render_filename(instance, 1))
        path.parent.mkdir(parents=True)
        stamped = [{"timestamp": "2026-01-01T00:00:00Z", **line} for line in lines]
        path.write_text("".join(json.dumps(line) + "\n" for line in stamped))

    return write


def test_the_first_task_that_failed_says_why(write_log):
    now = datetime.now(UTC)
    write_log("validate", {"event": "later", "level": "error"}, started=now)
    write_log(
        "register",
        {"event": "Task started", "level": "info"},
        RAISED,
        {"event": "Task finished", "level": "info"},
        started=now - timedelta(minutes=1),
    )
    write_log("plan", {"event": "never began", "level": "error"}, started=None)

    assert find_failure("s-1") == "ref: no branch x"
    assert find_failure("s-2") is None


def test_a_run_without_a_failed_task_has_no_reason(write_log):
    write_log("register", RAISED, started=datetime.now(UTC), state="success")
    assert find_failure("s-1") is None


def test_a_log_that_cannot_be_read_is_no_error(write_log, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no route to host")

    write_log("register", RAISED, started=datetime.now(UTC))
    monkeypatch.setattr(run_facts.TaskLogReader, "read_log_chunks", fail)
    assert find_failure("s-1") is None


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], None),
        (["plain text"], None),
        ([{"event": "told", "level": "error"}], "told"),
        ([{"event": "told", "level": "error"}, RAISED], "ref: no branch x"),
        ([RAISED, {"event": "told\nat length", "level": "critical"}], "told"),
        ([{"event": "", "level": "error"}, {"event": 3, "level": "error"}], None),
        ([{"event": "x", "level": "error", "error_detail": "odd"}], None),
        ([{"event": "x", "level": "error", "error_detail": None}], "x"),
        ([{"event": "x" * 9999, "level": "error"}], "x" * MAX_REASON),
    ],
)
def test_the_last_error_of_a_log_is_its_reason(lines, expected):
    assert find_error_line(lines) == expected
