from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import HTTPException
from rich.console import Console
from typer.testing import Result

from fakes.api import PASSWORDS, URL, FakeAirflow
from fakes.tasks import build_spec, build_task, change_fields
from touchstone.client.access import Access
from touchstone.client.answers import ShownSubmission, ShownTask
from touchstone.client.api import Client
from touchstone.client.errors import Unreachable
from touchstone.client.tables import LineView, LiveView
from touchstone.client.watch import PATIENCE_SECONDS, Ending, Snapshot, Watcher

Run = Callable[..., Result]
GIT = "https://host.test/owner/module.git"
SUBMIT = ("submit", GIT, "--id", "s-1", "--wait")
TRAIN = (*SUBMIT, "--intervals", "5")
RESULT = {
    "task_id": "i5",
    "interval": 5,
    "status": "success",
    "mlflow_url": "http://mlflow.test/runs/1",
    "judged": "judged",
    "metrics": {
        "net_sharpe": 0.5123,
        "net_sharpe_low": -0.25,
        "net_sharpe_high": 1.25,
        "hit_rate_minus_base": 0.031,
        "max_drawdown": -0.12,
        "auc_long": 0.55,
        "auc_short": 0.53,
    },
}


def set_run(airflow: FakeAirflow, state: str, run_id: str = "s-1") -> Callable[[], None]:
    return lambda: airflow.runs[run_id].update(state=state)


def together(*steps: Callable[[], Any]) -> Callable[[], None]:
    return lambda: [step() for step in steps] and None


def end(airflow: FakeAirflow, run_state: str, **fields: Any) -> Callable[[], None]:
    return together(set_run(airflow, run_state), lambda: airflow.change_submission("s-1", **fields))


@pytest.fixture
def script(airflow: FakeAirflow) -> Callable[..., None]:
    """Return a function that plays a run: queued, registered, a task at work, then the rest."""

    def play(*last: Callable[[], None]) -> None:
        airflow.steps += [
            lambda: None,
            together(
                set_run(airflow, "running"),
                lambda: airflow.add_submission(status="validating"),
            ),
            lambda: airflow.records.create_task(build_task(reason="rio is full")),
            lambda: (
                change_fields(
                    airflow.records,
                    "s-1",
                    "i5",
                    status="running",
                    server="rio",
                    reason=None,
                    percent=40,
                    progress_phase="fit",
                    eta_seconds=61,
                )
                and None
            ),
            *last,
        ]

    return play


def test_a_training_that_succeeds_ends_with_its_results(
    run: Run, airflow: FakeAirflow, script: Callable[..., None]
) -> None:
    script(end(airflow, "success", status="success", results=[RESULT], score=0.5))
    result = run(*TRAIN)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "run queued" in lines
    assert "s-1: validating" in lines
    assert "i5: queued (rio is full)" in lines
    assert "i5: running on rio 40 %, fit, 1:01 left" in lines
    assert "s-1: success" in lines
    assert "0.5123 [-0.25, 1.25]" in result.stdout
    assert "0.55/0.53" in result.stdout
    assert "http://mlflow.test/runs/1" in result.stdout


def test_being_accepted_is_success_without_a_schedule(
    run: Run, airflow: FakeAirflow, script: Callable[..., None]
) -> None:
    script(end(airflow, "success", status="accepted"))
    result = run(*SUBMIT)
    assert result.exit_code == 0
    assert "s-1: accepted" in result.stdout


def test_being_accepted_is_not_enough_with_a_schedule(
    run: Run, airflow: FakeAirflow, script: Callable[..., None]
) -> None:
    script(end(airflow, "success", status="accepted"))
    assert run(*TRAIN).exit_code == 1


@pytest.mark.parametrize(
    ("verdict", "code"), [("identical", 0), ("equivalent", 0), ("different", 1)]
)
def test_a_replay_ends_by_whether_it_came_to_the_same(
    run: Run, airflow: FakeAirflow, script: Callable[..., None], verdict: str, code: int
) -> None:
    script(
        end(
            airflow,
            "success",
            status="success",
            replay_of="mine/i5",
            verdict=verdict,
            verdict_reason="as its figures say",
            results=[RESULT],
        )
    )
    airflow.add_submission("mine", status="success")
    airflow.records.create_task(build_task(build_spec(submission_id="mine"), status="success"))
    result = run("replay", "mine", "i5", "--id", "s-1", "--wait")
    assert result.exit_code == code, result.output
    text = " ".join(result.stdout.split())
    assert "replay of: mine/i5" in text
    assert f"verdict: {verdict} (as its figures say)" in text
    listed = " ".join(run("list").stdout.split())
    assert f"replay of mine/i5: {verdict}" in listed
    assert f"verdict {verdict} (as its figures say)" in " ".join(run("show", "s-1").stdout.split())


@pytest.mark.parametrize("run_state", ["failed", "success"])
@pytest.mark.parametrize("status", ["rejected", "error", "cancelled"])
def test_a_bad_end_is_a_failure_with_its_reason(
    run: Run, airflow: FakeAirflow, script: Callable[..., None], status: str, run_state: str
) -> None:
    script(end(airflow, run_state, status=status, reason="features.py: no get_features()"))
    result = run(*TRAIN)
    assert result.exit_code == 1
    assert f"s-1: {status}: features.py: no get_features()" in result.stdout


def test_a_run_refused_before_there_is_a_record_says_why(run: Run, airflow: FakeAirflow) -> None:
    airflow.steps.append(lambda: None)
    airflow.steps.append(set_run(airflow, "failed"))
    airflow.failure = "ref: no branch x"
    result = run(*TRAIN)
    assert result.exit_code == 1
    assert "s-1: failed: ref: no branch x" in result.stdout


def test_a_refused_second_run_does_not_pass_off_an_older_reason_as_its_own(
    run: Run, airflow: FakeAirflow
) -> None:
    airflow.add_submission(status="error", reason="diverged last week", run_ids=["s-1"])
    airflow.steps.append(set_run(airflow, "failed", "s-1--2"))
    airflow.failure = "baseline: there is no submission 's-0'"
    result = run("schedule", "s-1", "--intervals", "5", "--wait")
    assert result.exit_code == 1
    assert "baseline: there is no submission" in result.stdout
    assert "last week" not in result.stdout


def test_a_record_may_settle_after_its_run(
    run: Run, airflow: FakeAirflow, script: Callable[..., None]
) -> None:
    script(
        set_run(airflow, "failed"),
        lambda: airflow.change_submission("s-1", status="cancelled", reason="by admin"),
    )
    result = run(*TRAIN)
    assert result.exit_code == 1
    assert "s-1: cancelled: by admin" in result.stdout


def test_json_is_one_document_and_progress_goes_elsewhere(
    run: Run, airflow: FakeAirflow, script: Callable[..., None]
) -> None:
    script(end(airflow, "success", status="success", results=[RESULT]))
    result = run(*TRAIN, "--json")
    document = json.loads(result.stdout)
    assert (document["outcome"], document["status"]) == ("success", "success")
    assert document["run_id"] == "s-1"
    assert document["results"] == [RESULT]
    assert "i5: running on rio" in result.stderr


def test_json_is_one_document_for_a_failure_too(
    run: Run, airflow: FakeAirflow, script: Callable[..., None]
) -> None:
    script(end(airflow, "failed", status="error", reason="out of memory"))
    result = run(*TRAIN, "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert (document["outcome"], document["reason"]) == ("failure", "out of memory")


def fail(error: BaseException) -> Callable[[], None]:
    def raise_it() -> None:
        raise error

    return raise_it


def test_an_outage_of_the_api_server_is_waited_out(
    run: Run, airflow: FakeAirflow, script: Callable[..., None]
) -> None:
    outage = [fail(HTTPException(503, "starting"))] * 5
    script(*outage, lambda: None, end(airflow, "success", status="success"))
    result = run(*TRAIN)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("the api-server does not answer") == 1
    assert "the api-server answers again" in result.stdout


def test_a_token_that_runs_out_while_waiting_is_renewed(
    run: Run, airflow: FakeAirflow, script: Callable[..., None]
) -> None:
    script(lambda: airflow.expired.add("engineer#1"), end(airflow, "success", status="success"))
    assert run(*TRAIN).exit_code == 0
    assert airflow.logins == 2


def test_interrupting_leaves_the_submission_running_and_says_how_to_go_on(
    run: Run, airflow: FakeAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    result = run(*TRAIN)
    assert result.exit_code == 130
    assert "touchstone cancel s-1" in result.stderr
    assert "touchstone logs s-1 --follow" in result.stderr
    assert airflow.cancel_service.calls == []


class VirtualTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def wait(
    airflow: FakeAirflow, transport: httpx.BaseTransport
) -> Callable[[], tuple[Ending, str, float]]:
    """Return a function that waits for run s-1 in virtual time: its end, the lines, the seconds."""
    airflow.runs["s-1"] = {"dag_run_id": "s-1", "state": "queued"}

    def make() -> tuple[Ending, str, float]:
        time, out = VirtualTime(), io.StringIO()
        access = Access(url=URL, user="engineer", password=PASSWORDS["engineer"])
        client = Client(access, transport=transport, sleep=time.sleep)
        view = LineView(Console(file=out, width=200), clock=lambda: time.now)
        watcher = Watcher(client, view, clock=lambda: time.now, sleep=time.sleep)
        ending = watcher.wait("s-1", "s-1", is_scheduled=True)
        return ending, out.getvalue(), time.now

    return make


def test_a_paused_dag_is_pointed_out(airflow: FakeAirflow, wait: Callable[..., Any]) -> None:
    airflow.is_paused = True
    airflow.steps += [lambda: None] * 10
    airflow.steps.append(set_run(airflow, "failed"))
    _, lines, _ = wait()
    assert "the DAG is paused in Airflow" in lines


def test_a_run_that_airflow_takes_long_to_start_is_explained(
    airflow: FakeAirflow, wait: Callable[..., Any]
) -> None:
    airflow.steps += [lambda: None] * 10
    airflow.steps.append(set_run(airflow, "failed"))
    _, lines, _ = wait()
    assert "waits for Airflow to start the run" in lines
    assert "paused" not in lines


def test_an_outage_that_lasts_is_given_up_on(
    airflow: FakeAirflow, wait: Callable[..., Any]
) -> None:
    airflow.steps += [fail(HTTPException(503, "starting"))] * 1000
    with pytest.raises(Unreachable):
        wait()
    assert len(airflow.steps) == pytest.approx(1000 - PATIENCE_SECONDS, abs=5)


def test_a_record_that_never_settles_is_not_waited_for(
    airflow: FakeAirflow, wait: Callable[..., Any]
) -> None:
    airflow.add_submission(status="running")
    airflow.runs["s-1"]["state"] = "failed"
    ending, _, seconds = wait()
    assert (ending.outcome, ending.status) == ("failure", "running")
    assert 5 < seconds < 20


def test_progress_is_printed_now_and_then_and_changes_at_once(
    airflow: FakeAirflow, script: Callable[..., None], wait: Callable[..., Any]
) -> None:
    def advance(percent: int) -> Callable[[], None]:
        return lambda: change_fields(airflow.records, "s-1", "i5", percent=percent) and None

    script(
        *(advance(40 + step) for step in range(1, 31)),
        end(airflow, "success", status="success"),
    )
    _, lines, _ = wait()
    running = [line for line in lines.splitlines() if line.startswith("i5: running")]
    assert 3 <= len(running) <= 5


def test_a_terminal_is_redrawn_in_place_and_left_clean() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, markup=False)
    task = ShownTask(task_id="i5", status="running", percent=40, reason="[/b] \x1b[2J")
    submission = ShownSubmission(submission_id="s-1", status="running")
    with LiveView(console) as view:
        view.show(Snapshot(run_state="queued", submission=None, tasks=(), hint="waits"))
        view.show(Snapshot(run_state="running", submission=submission, tasks=(task,)))
        drawn = out.getvalue()
        view.show_silence(12)
    assert "run queued (waits)" in drawn
    assert "########............  40 %" in drawn
    assert "i5: [/b] \ufffd[2J" in drawn
    assert "has not answered for 12 s" in out.getvalue()
    # The cursor is shown again.
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")
