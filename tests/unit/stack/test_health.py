from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx
import pytest

from touchstone.stack.health import Answers, ask, judge
from touchstone.stack.programs import Part
from touchstone.stack.supervisor import ProcessInfo

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def make_part(name="mlflow", health_url=None, server=None):
    return Part(
        name=name, command=("/bin/true",), environment={}, health_url=health_url, server=server
    )


def make_process(state="RUNNING", started_at=NOW - timedelta(minutes=5), error=""):
    return ProcessInfo(
        name="x",
        state=state,
        pid=7 if state == "RUNNING" else 0,
        started_at=int(started_at.timestamp()),
        uptime_seconds=300,
        error=error,
    )


def make_answers(problems=None, airflow=None, heartbeats=None):
    return Answers(
        problems=problems or {}, airflow=airflow or {}, asked_at=NOW, heartbeats=heartbeats or {}
    )


def judge_state(part, process, answers=None):
    return judge(part, process, answers or make_answers(), None).state


@pytest.mark.parametrize(
    ("supervisor_state", "state"),
    [
        ("RUNNING", "healthy"),
        ("STARTING", "starting"),
        ("BACKOFF", "failing"),
        ("EXITED", "failing"),
        ("FATAL", "failed"),
        ("STOPPED", "stopped"),
        ("STOPPING", "stopped"),
    ],
)
def test_a_part_is_what_the_supervisor_says(supervisor_state, state) -> None:
    assert judge_state(make_part(), make_process(supervisor_state)) == state


def test_a_part_without_supervisor_is_stopped() -> None:
    assert judge_state(make_part(), None) == "stopped"


def test_a_part_that_runs_and_does_not_answer_is_unhealthy() -> None:
    status = judge(
        make_part(), make_process(), make_answers({"mlflow": "answers 503"}), crashes=None
    )
    assert (status.state, status.detail) == ("unhealthy", "answers 503")
    assert not status.is_healthy


def airflow_report(status="healthy", beat=NOW):
    return {"scheduler": {"status": status, "latest_scheduler_heartbeat": beat.isoformat()}}


def test_an_airflow_part_is_as_airflow_reports() -> None:
    part = make_part("airflow-scheduler")
    for report, state in (
        (airflow_report(), "healthy"),
        (airflow_report("unhealthy"), "unhealthy"),
        ({}, "unhealthy"),
    ):
        assert judge_state(part, make_process(), make_answers(airflow=report)) == state


def test_a_heartbeat_of_the_process_before_does_not_count() -> None:
    old = airflow_report(beat=NOW - timedelta(minutes=6))
    part = make_part("airflow-scheduler")
    assert judge_state(part, make_process(), make_answers(airflow=old)) == "unhealthy"


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        (NOW - timedelta(seconds=10), "healthy"),
        (NOW - timedelta(seconds=60), "unhealthy"),
        (NOW - timedelta(minutes=6), "unhealthy"),
        (None, "unhealthy"),
    ],
)
def test_an_agent_is_healthy_while_the_dispatcher_hears_of_it(seen, state) -> None:
    answers = make_answers(heartbeats={"b": NOW} | ({"a": seen} if seen else {}))
    assert judge_state(make_part("agent-a", server="a"), make_process(), answers) == state


def test_parts_are_asked_at_their_addresses() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "gone":
            raise httpx.ConnectError("refused")
        return httpx.Response(500 if request.url.host == "broken" else 200, json={})

    parts = [make_part(name, f"http://{name}/health") for name in ("fine", "broken", "gone")]
    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        problems = ask([*parts, make_part("silent")], client, dict).problems
    assert problems["fine"] == ""
    assert problems["broken"] == "answers 500"
    assert problems["gone"].startswith("no answer")
    assert "silent" not in problems
