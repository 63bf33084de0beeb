from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from fakes.api import NOW, URL, FakeAirflow
from fakes.submissions import build_submission
from fakes.tasks import build_spec, build_task, change_fields
from touchstone import cli
from touchstone.core.names import build_console_key
from touchstone.core.offers import GpuRow, Stock
from touchstone.core.throttling import THROTTLED_UNTIL
from touchstone.stores.consoles import find_end
from touchstone_agent.protocol.messages import MAX_CHUNK_BYTES, AttemptRef

Run = Callable[..., Result]


def add_task(airflow: FakeAirflow, task_id: str = "i5", **fields: Any) -> None:
    told = {"status": "success", "phase": "uploaded", "outcome": "succeeded"}
    spec = build_spec(task_id=task_id, interval=None if task_id == "validation" else 5)
    airflow.records.create_task(build_task(spec, **({"attempt": 1, "fence": 1} | told | fields)))


def add_log(airflow: FakeAirflow, text: str, *, task: str = "i5", attempt: int = 1) -> None:
    ref = AttemptRef(submission_id="s-1", task_id=task, attempt=attempt, fence=attempt)
    objects, bucket = airflow.objects, airflow.settings.logs_bucket
    stored, data = find_end(objects, bucket, ref), text.encode()
    for start in range(0, len(data), MAX_CHUNK_BYTES):
        chunk = data[start : start + MAX_CHUNK_BYTES]
        assert objects.put_new(bucket, build_console_key(ref, stored + start), chunk)


def test_the_list_is_a_table(run: Run, airflow: FakeAirflow) -> None:
    airflow.add_submission("s-1", notes="first [b]try[/b]", score=0.25)
    result = run("list")
    assert result.exit_code == 0
    assert "s-1" in result.stdout
    assert "first [b]try[/b]" in result.stdout


def test_the_list_says_that_it_left_some_out(run: Run, airflow: FakeAirflow) -> None:
    for number in range(3):
        airflow.add_submission(f"s-{number}")
    assert "and older ones" in run("list", "--limit", "2").stdout
    assert "older ones" not in run("list", "--limit", "3").stdout


def test_all_submissions_are_listed_page_by_page(
    run: Run, airflow: FakeAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("touchstone.client.api.LIST_LIMIT", 2)
    for number in range(5):
        airflow.add_submission(f"s-{number}", status="error" if number % 2 else "success")
    found = json.loads(run("list", "--all", "--json").stdout)
    names = [item["submission_id"] for item in found["submissions"]]
    assert sorted(names) == [f"s-{number}" for number in range(5)]
    assert found["next"] is None
    assert found["dispatcher"]
    text = run("list", "--all", "--status", "error").stdout
    assert ("s-1" in text, "s-3" in text, "s-2" in text) == (True, True, False)


def test_an_engineer_lists_own_submissions_and_an_admin_all(run: Run, airflow: FakeAirflow) -> None:
    airflow.add_submission("s-1")
    airflow.add_submission("s-2", submitted_by="other")
    own = json.loads(run("list", "--json").stdout)
    every = json.loads(run("list", "--as", "admin", "--json").stdout)
    assert (len(own["submissions"]), len(every["submissions"])) == (1, 2)
    picked = json.loads(run("list", "--as", "admin", "--user", "other", "--json").stdout)
    assert [item["submission_id"] for item in picked["submissions"]] == ["s-2"]


def test_a_submission_is_shown_with_its_tasks(run: Run, airflow: FakeAirflow) -> None:
    airflow.add_submission(source_url="https://host.test/x", commit="c0ffee")
    add_task(airflow, status="running", percent=50, progress_phase="fit", server="rio")
    result = run("show", "s-1")
    assert result.exit_code == 0, result.output
    for text in ("https://host.test/x", "c0ffee", "i5", "##########..........  50 %", "rio"):
        assert text in result.stdout
    assert json.loads(run("show", "s-1", "--json").stdout)["tasks"][0]["task_id"] == "i5"


def test_what_others_wrote_cannot_control_the_terminal(run: Run, airflow: FakeAirflow) -> None:
    airflow.add_submission(reason="\x1b]0;owned\x07[/red] oops", notes="a\x1b[2Jb")
    assert "\x1b" not in run("list").stdout + run("show", "s-1").stdout


def test_results_before_there_are_any_say_the_status(run: Run, airflow: FakeAirflow) -> None:
    airflow.add_submission(status="rejected", reason="no get_features()")
    result = run("results", "s-1")
    assert result.exit_code == 0
    assert result.stdout.strip() == "s-1 is rejected; no results: no get_features()"


def test_results_are_a_table(run: Run, airflow: FakeAirflow) -> None:
    airflow.add_submission(
        results=[
            {
                "task_id": "i5",
                "interval": 5,
                "status": "success",
                "judged": "judged",
                "metrics": {"net_sharpe": 0.5, "auc_long": None},
            },
            {
                "task_id": "i20",
                "interval": 20,
                "status": "error",
                "metrics": {},
                "reason": "diverged",
            },
        ],
        score=0.5,
        score_low=0.25,
        score_high=0.75,
        verdict="better",
    )
    result = run("results", "s-1")
    assert result.exit_code == 0, result.output
    for text in ("5 d", "0.5", "diverged", "score: 0.5 [0.25, 0.75]", "verdict: better"):
        assert text in result.stdout


def test_figures_that_are_not_judged_are_reported_only_with_the_reason(
    run: Run, airflow: FakeAirflow
) -> None:
    airflow.add_submission(
        results=[
            {
                "task_id": "i5",
                "interval": 5,
                "status": "success",
                "judged": "not judged",
                "judged_reason": "other rows (split.test_from is 2017-01-01)",
                "metrics": {},
                "reported": {"net_sharpe": 12.0, "auc_long": 0.9, "auc_short": 0.9},
            }
        ]
    )
    result = run("results", "s-1")
    assert result.exit_code == 0, result.output
    assert "reported 12" in result.stdout
    assert "0.9" not in result.stdout
    assert "not judged: other rows (split.test_from is 2017-01-01)" in result.stdout


def test_models_that_may_carry_code_are_told_beside_results_and_tasks(
    run: Run, airflow: FakeAirflow
) -> None:
    models = [
        {"strategy": "long", "may_carry_code": True, "code_reason": "layer 2 is a 'Lambda'"},
        {"strategy": "short", "may_carry_code": False, "code_reason": None},
    ]
    airflow.add_submission(
        results=[
            {
                "task_id": "i5",
                "interval": 5,
                "status": "success",
                "metrics": {},
                "models": models,
            }
        ]
    )
    airflow.records.create_task(build_task(status="success", published={"models": models}))

    for command in ("results", "show"):
        shown = " ".join(run(command, "s-1").stdout.split())
        assert "models may carry code (long: layer 2 is a 'Lambda')" in shown
        assert "safe_mode=False" in shown


@pytest.mark.parametrize(
    ("args", "call"),
    [
        (("cancel", "s-1", "--reason", "typo"), ("cancel", "s-1", "engineer", "typo")),
        (("cancel", "s-1"), ("cancel", "s-1", "engineer", None)),
        (("cancel", "s-1", "--user", "admin"), ("cancel", "s-1", "admin", None)),
        (("retract", "s-1"), ("retract", "s-1", "engineer")),
    ],
)
def test_ending_a_submission_says_who_ends_it(
    run: Run, airflow: FakeAirflow, args: tuple[str, ...], call: tuple[Any, ...]
) -> None:
    airflow.add_submission()
    assert run(*args).exit_code == 0
    assert airflow.cancel_service.calls == [call]
    assert json.loads(run(*args, "--json").stdout)["submission_id"] == "s-1"


@pytest.mark.parametrize(("command", "word"), [("cancel", "cancelled"), ("retract", "retracted")])
def test_one_that_is_refused_stops_no_other_and_is_told(
    run: Run, airflow: FakeAirflow, command: str, word: str
) -> None:
    for submission_id in ("s-1", "s-3"):
        airflow.add_submission(submission_id)

    done = run(command, "s-1", "s-2", "s-3", "s-1")

    assert done.exit_code == 1
    assert [call[1] for call in airflow.cancel_service.calls] == ["s-1", "s-3"]
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [
        f"s-1 {word}",
        f"s-3 {word}",
    ]
    assert f"s-2 not {word}: there is no submission" in done.stderr


def test_the_document_of_several_has_each_in_its_order(run: Run, airflow: FakeAirflow) -> None:
    airflow.add_submission("s-3")

    done = run("cancel", "s-2", "s-3", "--json")

    assert done.exit_code == 1
    rows = json.loads(done.stdout)["submissions"]
    assert [(row["submission_id"], bool(row["problem"])) for row in rows] == [
        ("s-2", True),
        ("s-3", False),
    ]
    assert rows[1]["cancelled_tasks"] == ["i5"]
    airflow.add_submission("s-2")
    assert run("cancel", "s-2", "s-3", "--json").exit_code == 0


def test_nothing_is_ended_while_one_id_cannot_be_one(run: Run, airflow: FakeAirflow) -> None:
    airflow.add_submission()

    assert run("cancel", "s-1", "../servers").exit_code == 2
    assert airflow.cancel_service.calls == []


@pytest.mark.parametrize("command", ["show", "logs", "results", "cancel", "retract"])
def test_a_submission_that_is_not_there_is_a_failure(run: Run, command: str) -> None:
    result = run(command, "s-9")
    assert result.exit_code == 1
    assert "s-9" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("command", ["show", "logs", "results", "cancel", "retract"])
def test_an_id_cannot_name_another_path(run: Run, airflow: FakeAirflow, command: str) -> None:
    result = run(command, "../servers")
    assert result.exit_code == 2
    assert airflow.logins == 0


def test_logs_are_those_of_the_task_that_failed(run: Run, airflow: FakeAirflow) -> None:
    airflow.add_submission()
    add_task(airflow, "validation")
    add_task(airflow, "i5", status="error", outcome="failed(user)")
    add_log(airflow, "validated\n", task="validation")
    add_log(airflow, "Traceback: x\n")
    assert run("logs", "s-1").stdout == "Traceback: x\n"
    assert run("logs", "s-1", "validation").stdout == "validated\n"


def test_logs_are_those_of_the_validation_when_nothing_failed(
    run: Run, airflow: FakeAirflow
) -> None:
    airflow.add_submission()
    add_task(airflow, "validation")
    add_task(airflow, "i5")
    add_log(airflow, "validated\n", task="validation")
    assert run("logs", "s-1").stdout == "validated\n"


def test_logs_of_several_pages_are_printed_whole(run: Run, airflow: FakeAirflow) -> None:
    airflow.add_submission()
    add_task(airflow)
    text = "0123456789\n" * 60_000
    add_log(airflow, text)
    assert run("logs", "s-1").stdout == text
    document = json.loads(run("logs", "s-1", "--json").stdout)
    assert (document["text"], document["complete"], document["offset"]) == (text, True, 0)


def test_an_empty_log_says_why_on_standard_error(run: Run, airflow: FakeAirflow) -> None:
    airflow.add_submission()
    add_task(airflow, status="queued", phase=None, attempt=0, fence=0, outcome=None)
    result = run("logs", "s-1")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no output yet (waiting for a slot)" in result.stderr


def test_following_ends_when_the_task_has(
    run: Run, airflow: FakeAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow.add_submission(status="running")
    add_task(airflow, status="running", phase="running", outcome=None)
    add_log(airflow, "one\n")
    steps = iter(
        [
            lambda: add_log(airflow, "two\n"),
            lambda: change_fields(airflow.records, "s-1", "i5", status="success", phase="uploaded"),
        ]
    )
    monkeypatch.setattr("time.sleep", lambda seconds: next(steps)())
    result = run("logs", "s-1", "i5", "--follow")
    assert result.exit_code == 0, result.output
    assert result.stdout == "one\ntwo\n"


def test_following_goes_on_with_the_next_attempt(
    run: Run, airflow: FakeAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow.add_submission(status="running")
    add_task(airflow, status="lost", phase="lost", outcome="lost", is_retriable=True)
    add_log(airflow, "first\n")
    earlier = {"attempt": 1, "fence": 1, "outcome": "lost"}

    def retry() -> None:
        add_log(airflow, "second\n", attempt=2)
        done = {"status": "success", "phase": "uploaded", "attempt": 2, "fence": 2}
        change_fields(airflow.records, "s-1", "i5", attempts=[earlier], **done)

    steps = iter([lambda: None, retry])
    monkeypatch.setattr("time.sleep", lambda seconds: next(steps)())
    result = run("logs", "s-1", "i5", "--follow")
    assert result.stdout == "first\nsecond\n"
    assert "--- attempt 2-2 ---" in result.stderr
    assert run("logs", "s-1", "i5", "--attempt", "1-1").stdout == "first\n"


def test_following_ends_when_nobody_is_at_work_any_more(
    run: Run, airflow: FakeAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow.add_submission(status="error")
    add_task(airflow, status="queued", phase=None, attempt=0, fence=0, outcome=None)
    budget = iter(range(50))
    monkeypatch.setattr("time.sleep", lambda seconds: next(budget))
    assert run("logs", "s-1", "i5", "--follow").exit_code == 0


def test_help_lists_the_commands_of_other_modules_without_importing_them() -> None:
    result = CliRunner().invoke(cli.app, ["--help"])
    assert result.exit_code == 0
    for name in cli.ELSEWHERE:
        assert f"  {name} " in result.stdout


def test_a_command_of_another_module_is_run_with_its_own_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def greet(name: str = "nobody") -> None:
        calls.append(name)

    monkeypatch.setattr("touchstone.client.greet", greet, raising=False)
    monkeypatch.setitem(cli.ELSEWHERE, "greet", ("touchstone.client:greet", "Greet."))
    assert CliRunner().invoke(cli.app, ["greet", "--name", "ada"]).exit_code == 0
    assert CliRunner().invoke(cli.app, ["greet", "--nme", "ada"]).exit_code == 2
    assert calls == ["ada"]


def test_an_unknown_command_is_a_usage_error() -> None:
    assert CliRunner().invoke(cli.app, ["lst"]).exit_code == 2


def test_listing_imports_neither_airflow_nor_aws() -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from touchstone import cli\n"
        "from touchstone.client import access, api, tables, watch\n"
        "CliRunner().invoke(cli.app, ['list'])\n"
        "print([name for name in ('airflow', 'boto3', 'mlflow', 'fastapi', 'pydantic_settings')"
        " if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"TOUCHSTONE_STATE_DIR": "/nonexistent"},
    )
    assert done.stdout.strip() == "[]"


def test_time_is_shown_in_utc_to_the_second(run: Run, airflow: FakeAirflow) -> None:
    airflow.add_submission()
    assert f"{NOW:%Y-%m-%d %H:%M:%S}" in run("show", "s-1").stdout


@pytest.mark.parametrize("command", ["show", "logs"])
def test_a_submission_on_its_way_is_not_called_missing(
    run: Run, airflow: FakeAirflow, command: str
) -> None:
    airflow.runs["s-1"] = {"dag_run_id": "s-1", "state": "queued"}
    result = run(command, "s-1")
    assert result.exit_code == 1
    assert "s-1 is not registered yet: its run is queued" in result.stderr


def test_a_submission_that_lets_others_go_first_says_so(run: Run, airflow: FakeAirflow) -> None:
    airflow.runs["s-1"] = {"state": "queued", "run_after": THROTTLED_UNTIL}
    assert "its run is queued, behind others of its submitter's" in run("show", "s-1").stderr


def test_a_submission_that_was_ended_before_it_began_says_so(
    run: Run, airflow: FakeAirflow
) -> None:
    airflow.runs["s-1"] = {"dag_run_id": "s-1", "state": "failed"}
    assert "s-1 was ended before it was registered" in run("show", "s-1").stderr


def test_a_submission_whose_run_was_refused_says_why(run: Run, airflow: FakeAirflow) -> None:
    airflow.runs["s-1"] = {"dag_run_id": "s-1", "state": "failed"}
    airflow.failure = "ref: no branch 'x'"
    result = run("show", "s-1")
    assert result.exit_code == 1
    assert "s-1 was refused: ref: no branch 'x'" in result.stderr


def test_following_waits_for_a_task_that_is_still_to_come(
    run: Run, airflow: FakeAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow.runs["s-1"] = {"dag_run_id": "s-1", "state": "running"}

    def begin() -> None:
        add_task(airflow)
        add_log(airflow, "one\n")

    # A run that trains passes through `accepted`, where others end.
    steps = iter([lambda: airflow.add_submission(status="accepted"), lambda: None, begin])
    monkeypatch.setattr("time.sleep", lambda seconds: next(steps)())
    result = run("logs", "s-1", "i5", "--follow")
    assert (result.exit_code, result.stdout) == (0, "one\n"), result.output


def test_following_a_task_that_will_never_come_names_those_there_are(
    run: Run, airflow: FakeAirflow
) -> None:
    airflow.add_submission()
    add_task(airflow, "validation")
    result = run("logs", "s-1", "i7", "--follow")
    assert result.exit_code == 1
    assert "s-1 is accepted and has no task i7; its tasks are: validation" in result.stderr


def test_ids_and_links_are_whole_on_a_narrow_terminal(run: Run, airflow: FakeAirflow) -> None:
    submission_id = "20261122-104951-daf868"
    url = "http://127.0.0.1:27817/#/experiments/1/runs/9a400b2c786a4b65affc1e0ccbf6bb96"
    metrics = {
        "net_sharpe": 0.07585, "net_sharpe_low": -0.6158, "net_sharpe_high": 0.7971,
        "hit_rate_minus_base": -0.007166, "max_drawdown": -0.1307,
        "auc_long": 0.5251, "auc_short": 0.5015,
    }  # fmt: skip
    airflow.add_submission(
        submission_id,
        notes="n" * 200,
        score=-0.07585,
        results=[
            {
                "task_id": "i20",
                "interval": 20,
                "status": "success",
                "judged": "judged",
                "metrics": metrics,
                "mlflow_url": url,
            }
        ],
    )
    listed = run("list", columns=80).stdout
    shown = run("results", submission_id, columns=80).stdout
    assert submission_id in listed
    assert max(len(line) for line in listed.splitlines()) <= 80
    assert url in shown
    assert "0.07585 [-0.6158, 0.7971]" in shown
    assert "0.5251/0.5015" in shown


@pytest.mark.parametrize("verb", ["list", "show s-1", "submit https://host.test/x"])
def test_a_stack_that_is_down_is_an_exit_of_its_own(
    run: Run, monkeypatch: pytest.MonkeyPatch, transport: httpx.BaseTransport, verb: str
) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    monkeypatch.setattr(transport, "handle_request", refuse)
    result = run(*verb.split())
    assert result.exit_code == 3
    assert f"nothing answers at {URL}: is the stack up? `touchstone up`" in result.stderr


def test_no_stack_at_all_is_an_exit_of_its_own(run: Run, state_dir: Path) -> None:
    (state_dir / "stack.json").unlink()
    result = run("list")
    assert result.exit_code == 3
    assert "touchstone up" in result.stderr


def test_the_gpus_of_runpod_are_a_table(run: Run, airflow: FakeAirflow) -> None:
    row = GpuRow(
        gpu="NVIDIA L4",
        name="L4",
        memory_gb=24,
        secure_price=Decimal("0.39"),
        community_price=None,
        secure_stock=Stock.HIGH,
        community_stock=Stock.NONE,
        checked_at=NOW,
    )
    airflow.gpus = (row,)
    shown = run("gpus").stdout
    assert "L4" in shown
    assert "0.39" in shown
    assert "asked at 2026-03-01 12:00:00 UTC" in shown
    assert json.loads(run("gpus", "--json").stdout)["gpus"][0]["name"] == "L4"


def test_without_a_connection_there_are_no_gpus_to_list(run: Run) -> None:
    result = run("gpus")
    assert result.exit_code == 1
    assert "not connected to RunPod" in result.stderr


def test_a_task_in_a_pod_is_shown_with_its_pod_and_its_cost(run: Run, airflow: FakeAirflow) -> None:
    airflow.add_submission(status="running")
    pod = {
        "name": "touchstone-dev-s-1-i5-1-1",
        "id": "p1x2",
        "gpu": "NVIDIA L4",
        "cloud": "SECURE",
        "data_center": "EU-RO-1",
        "ordered_at": NOW.isoformat(),
        "price_per_hour": "0.39",
        "usd": "0.0130",
        "gone_at": NOW.isoformat(),
    }
    add_task(airflow, server="runpod", platform="runpod", pod=pod)
    shown = run("show", "s-1").stdout
    assert "runpod NVIDIA L4" in shown
    assert "pod p1x2 (NVIDIA L4, SECURE, EU-RO-1), $0.39/h, $0.0130" in shown
    assert "cost" in shown


def test_a_validation_in_a_pod_is_shown_with_its_cpu(run: Run, airflow: FakeAirflow) -> None:
    airflow.add_submission(status="validating")
    pod = {
        "name": "touchstone-dev-s-1-validation-1-1",
        "id": "p1x2",
        "gpu": None,
        "cpu": "cpu3c",
        "vcpus": 4,
        "cloud": "SECURE",
        "data_center": "EU-RO-1",
        "ordered_at": NOW.isoformat(),
        "price_per_hour": "0.12",
        "usd": "0.0021",
        "gone_at": NOW.isoformat(),
    }
    add_task(airflow, server="runpod", platform="runpod", pod=pod)
    shown = run("show", "s-1").stdout
    assert "runpod CPU cpu3c, 4 vCPU" in shown
    assert "pod p1x2 (CPU cpu3c, 4 vCPU, SECURE, EU-RO-1), $0.12/h, $0.0021" in shown
    assert "None" not in shown


def test_a_task_is_shown_with_its_device_its_image_and_what_it_made_of_the_gpu(
    run: Run, airflow: FakeAirflow
) -> None:
    airflow.add_submission()
    device = {"platform": "gpu", "name": "NVIDIA L4", "driver": "550.54"}
    add_task(
        airflow,
        kind="training",
        gpus=1,
        image="trainer:cuda",
        image_digest="sha256:12",
        intent_at=(NOW - timedelta(hours=1)).isoformat(),
        exited_at=NOW.isoformat(),
        verdict={"usage": {"gpu": {"mean_utilisation_percent": 3.0}}},
        published={"device": device},
    )
    shown = " ".join(run("show", "s-1").stdout.split())
    assert "i5: on NVIDIA L4 (driver 550.54), image trainer:cuda (sha256:12)" in shown
    assert "i5: used 3 % of its GPU in 1.00 h: a CPU slot would do" in shown
    task = json.loads(run("show", "s-1", "--json").stdout)["tasks"][0]
    assert (task["published"]["device"], task["gpu"]["useful_hours"]) == (device, 0.03)


def test_two_results_of_other_classes_are_shown_as_what_they_are_and_not_compared(
    run: Run, airflow: FakeAirflow
) -> None:
    airflow.add_submission()
    add_task(airflow, published={"device": {"platform": "cpu", "determinism": "cpu avx2"}})
    add_task(
        airflow,
        "i20",
        published={"device": {"platform": "gpu", "name": "NVIDIA L4", "determinism": "L4"}},
    )
    shown = run("show", "s-1").stdout
    assert "i5: on the CPU" in shown
    assert "i20: on NVIDIA L4" in shown
    assert not any(word in shown.lower() for word in ("equal", "same", "identical"))


def test_a_device_cannot_control_the_terminal(run: Run, airflow: FakeAirflow) -> None:
    airflow.add_submission()
    add_task(airflow, published={"device": {"platform": "gpu", "name": "\x1b]0;owned\x07[/red]"}})
    assert "\x1b" not in run("show", "s-1").stdout


@pytest.mark.parametrize(
    ("command", "path"),
    [
        ("list", "submissions?limit=20"),
        ("show s-1", "submissions/s-1"),
        ("results s-1", "submissions/s-1/results"),
    ],
)
def test_json_is_the_answer_as_it_came(
    run: Run, airflow: FakeAirflow, transport: httpx.BaseTransport, command: str, path: str
) -> None:
    airflow.add_submission(status="running", notes="ein Vers…uch", score=1.5)
    add_task(airflow, metrics={"loss": 1e-07}, published={"metrics": {"mse": 0.25}})
    headers = {"Authorization": "Bearer engineer#1"}
    answer = httpx.Client(transport=transport, base_url=URL).get(
        f"/touchstone/api/v1/{path}", headers=headers
    )

    assert run(*command.split(), "--json").stdout == json.dumps(answer.json(), indent=2) + "\n"


def test_the_address_of_a_submissions_page_is_printed(
    run: Run, airflow: FakeAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    told: dict[str, Any] = {"submitted_by": "engineer", "created_at": NOW.isoformat()}
    airflow.records.create_submission(build_submission("s-1", **told))

    done = run("open", "s-1")

    assert done.output == f"{URL}/touchstone/pages/submissions/s-1\n"
    assert json.loads(run("open", "s-1", "--json").output) == {
        "submission_id": "s-1",
        "url": f"{URL}/touchstone/pages/submissions/s-1",
    }
    assert opened == [], "a pipe opens no browser"


def test_the_page_of_what_is_not_there_has_no_address(run: Run) -> None:
    done = run("open", "s-9")

    assert done.exit_code == 1
    assert "/touchstone/pages" not in done.output


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("touchstone co", {"compare", "costs"}), ("touchstone costs --m", {"--month"})],
)
def test_a_shell_completes_commands_and_options(
    state_dir: Path, typed: str, offered: set[str]
) -> None:
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    environment = {"_TOUCHSTONE_COMPLETE": "complete_bash", **words}

    done = CliRunner().invoke(cli.app, [], prog_name="touchstone", env=environment)

    assert offered <= set(done.output.split())


def test_results_of_folds_stand_below_those_of_their_interval(
    run: Run, airflow: FakeAirflow
) -> None:
    line = {"interval": 5, "status": "success", "judged": "judged"}
    airflow.add_submission(
        schedule={"intervals": [5], "folds": ["2005-01-01", "2010-01-01"]},
        results=[
            {**line, "task_id": "i5", "metrics": {"net_sharpe": 0.5}},
            {
                **line,
                "task_id": "i5-f0",
                "fold": 0,
                "rows": "2005-01-01 to 2009-12-31",
                "metrics": {"net_sharpe": 0.25},
            },
            {
                **line,
                "task_id": "i5-f1",
                "fold": 1,
                "rows": "from 2010-01-01",
                "metrics": {"net_sharpe": 0.75},
            },
        ],
    )
    result = run("results", "s-1")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[1].split()[:3] == ["5", "d", "0.5"]
    assert "5 d, fold 0, 2005-01-01 to 2009-12-31" in lines[2]
    assert "5 d, fold 1, from 2010-01-01" in lines[3]
    shown = run("show", "s-1").stdout
    assert "2, from 2005-01-01, 2010-01-01" in shown
