from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from fakes.api import FakeAirflow
from fakes.tasks import build_spec, build_task
from touchstone.client import watch
from touchstone.core.answers.acts import ShownRun

Run = Callable[..., Result]
GIT = "https://host.test/owner/module.git"


@pytest.fixture
def module(tmp_path: Path) -> Path:
    folder = tmp_path / "module"
    folder.mkdir()
    (folder / "features.py").write_text("x = 1\n")
    return folder


def test_a_git_source_starts_a_run_named_by_the_new_submission(
    run: Run, airflow: FakeAirflow
) -> None:
    result = run("submit", GIT, "--ref", "main", "--path", "sets/a", "--notes", "first")
    assert result.exit_code == 0, result.output
    [run_id] = airflow.runs
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", run_id)
    assert result.stdout.strip() == run_id
    assert airflow.runs[run_id]["conf"] == {
        "source": GIT,
        "ref": "main",
        "path": "sets/a",
        "notes": "first",
    }


def test_every_option_of_a_schedule_arrives(run: Run, airflow: FakeAirflow) -> None:
    airflow.settings = airflow.settings.model_copy(update={"branch_users": ("engineer",)})
    airflow.add_submission("s-0", status="success")
    result = run(
        "submit", GIT, "--id", "s-1", "--system", "model_structure", "--intervals", "1,5,20",
        "--config", "small.toml", "--branch", "dev", "--fetched-data-end-to", "2018-06-30",
        "--override", "a.b=3", "--override", "c=x y", "--platform", "on-prem", "--seed", "7",
        "--baseline", "s-0", "--json", "--", "--epochs", "3 4",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    conf = {
        "source": GIT,
        "system": "model_structure",
        "intervals": "1,5,20",
        "config_file": "small.toml",
        "branch": "dev",
        "fetched_data_end_to": "2018-06-30",
        "config_overrides": ["a.b=3", "c=x y"],
        "passthrough_args": ["--epochs", "'3 4'"],
        "platform": "on-prem",
        "seed": 7,
        "baseline": "s-0",
    }
    assert airflow.runs["s-1"]["conf"] == conf
    assert json.loads(result.stdout) == {"submission_id": "s-1", "run_id": "s-1", "conf": conf}


def test_a_folder_is_packed_and_uploaded(run: Run, airflow: FakeAirflow, module: Path) -> None:
    assert run("submit", str(module), "--id", "s-1").exit_code == 0
    source = airflow.runs["s-1"]["conf"]["source"]
    sha256 = source.removeprefix("upload:")
    key = (airflow.settings.content_bucket, f"content/{sha256}.tar.gz")
    assert list(airflow.objects.objects) == [key]


def test_a_file_url_is_left_to_the_installation(run: Run, airflow: FakeAirflow) -> None:
    refused = run("submit", "file:///srv/module", "--id", "s-1")
    assert (refused.exit_code, airflow.runs) == (2, {})
    assert "source: " in refused.stderr

    airflow.settings = airflow.settings.model_copy(update={"allow_local_sources": True})
    assert run("submit", "file:///srv/module", "--id", "s-1").exit_code == 0
    assert airflow.runs["s-1"]["conf"] == {"source": "file:///srv/module"}
    assert airflow.objects.objects == {}


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ((GIT, "--intervals", "1,x"), "intervals"),
        ((GIT, "--intervals", "1", "--override", "novalue"), "config_overrides"),
        ((GIT, "--intervals", "1", "--platform", "moon"), "platform"),
        ((GIT, "--intervals", "1", "--fetched-data-end-to", "soon"), "fetched_data_end_to"),
        ((GIT, "--seed", "3"), "intervals"),
        ((GIT, "--gpu", "L4"), "intervals"),
        ((GIT, "--intervals", "1", "--cloud", "mine"), "cloud"),
        ((GIT, "--intervals", "1", "--max-price", "0"), "max_price"),
        ((GIT, "--intervals", "1", "--budget", "-1"), "budget"),
        ((GIT, "--intervals", "1", "--max-hours", "1e9"), "max_hours"),
        ((GIT, "--", "--epochs", "3"), "intervals"),
        ((GIT, "--system", "robot"), "system"),
        ((GIT, "--path", "../up"), "path"),
        ((GIT, "--id", "Bad Id"), "id"),
        (("no-such-folder",), "source"),
        (("module", "--ref", "main"), "ref"),
        ((GIT, "stray"), "stray"),
        ((GIT, "--seed", "many"), "--seed"),
        ((), "source"),
    ],
)
def test_a_wrong_option_is_named_before_anything_is_sent(
    run: Run, airflow: FakeAirflow, args: tuple[str, ...], named: str
) -> None:
    result = run("submit", *args)
    assert result.exit_code == 2
    assert named in result.stderr
    assert result.stdout == ""
    assert (airflow.runs, airflow.logins) == ({}, 0)


def test_a_wrong_option_beside_a_folder_uploads_nothing(
    run: Run, airflow: FakeAirflow, module: Path
) -> None:
    assert run("submit", str(module), "--intervals", "0").exit_code == 2
    assert airflow.objects.objects == {}


def test_a_folder_that_is_too_large_names_its_largest_files(
    run: Run, module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from touchstone.settings import get_settings

    get_settings.cache_clear()
    monkeypatch.setenv("TOUCHSTONE_CONTENT_BYTES", "1024")
    (module / "noise.bin").write_bytes(bytes(range(256)) * 4 + __import__("os").urandom(2000))
    try:
        result = run("submit", str(module))
    finally:
        get_settings.cache_clear()
    assert result.exit_code == 2
    assert "noise.bin" in result.stderr


def test_what_the_installation_refuses_is_said_with_the_field(
    run: Run, airflow: FakeAirflow
) -> None:
    result = run("submit", GIT, "--intervals", "5", "--baseline", "s-0")
    assert result.exit_code == 2
    said = "baseline: 's-0' is no successful submission: there is none"
    assert result.stderr.strip() == f"touchstone: {said}"
    assert airflow.runs == {}


def test_a_replay_is_a_run_of_its_own_that_names_the_training(
    run: Run, airflow: FakeAirflow
) -> None:
    airflow.add_submission("mine", status="success")
    airflow.records.create_task(build_task(build_spec(submission_id="mine"), status="success"))
    result = run("replay", "mine", "i5", "--host", "rio", "--host", "moa", "--id", "r-1", "--json")
    assert result.exit_code == 0, result.output
    assert list(airflow.runs) == ["r-1"]
    conf = {"replay": "mine/i5", "allowed_hosts": ["rio", "moa"]}
    assert airflow.runs["r-1"]["conf"] == conf
    assert json.loads(result.stdout)["conf"] == conf


def test_a_replay_of_what_did_not_end_well_is_refused_at_once(
    run: Run, airflow: FakeAirflow
) -> None:
    airflow.add_submission("mine", status="error")
    airflow.records.create_task(build_task(build_spec(submission_id="mine"), status="error"))
    for task, said in (("i5", "it is error"), ("i1", "there is no training 'mine/i1'")):
        result = run("replay", "mine", task)
        assert result.exit_code == 2
        assert said in result.stderr
    assert airflow.runs == {}


@pytest.mark.parametrize("task", ["validation", "i0", "../i5", "i5/i6", ""])
def test_a_replay_of_what_is_no_training_is_refused_before_anything_is_sent(
    run: Run, airflow: FakeAirflow, task: str
) -> None:
    result = run("replay", "mine", task)
    assert result.exit_code == 2
    assert result.stderr.startswith("touchstone: replay: ")
    assert airflow.runs == {}


def test_scheduling_takes_the_next_run_of_the_submission(run: Run, airflow: FakeAirflow) -> None:
    airflow.add_submission()
    result = run("schedule", "s-1", "--intervals", "5", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["run_id"] == "s-1--2"
    assert airflow.runs["s-1--2"]["conf"] == {"submission_id": "s-1", "intervals": "5"}


def test_a_run_number_that_is_taken_is_passed_over(run: Run, airflow: FakeAirflow) -> None:
    airflow.add_submission(run_ids=["s-1", "s-1--2"])
    airflow.runs["s-1--3"] = {"dag_run_id": "s-1--3", "state": "failed", "conf": {}}
    assert run("schedule", "s-1", "--intervals", "5").exit_code == 0
    assert list(airflow.runs) == ["s-1--3", "s-1--4"]


def test_a_schedule_needs_intervals(run: Run, airflow: FakeAirflow) -> None:
    airflow.add_submission()
    result = run("schedule", "s-1")
    assert result.exit_code == 2
    assert "intervals" in result.stderr


def test_scheduling_what_is_not_there_fails(run: Run, airflow: FakeAirflow) -> None:
    result = run("schedule", "s-9", "--intervals", "5")
    assert result.exit_code == 1
    assert "s-9" in result.stderr
    assert airflow.runs == {}


@pytest.mark.parametrize("status", ["validating", "running", "rejected", "retracted"])
def test_only_a_submission_that_waits_can_be_scheduled(
    run: Run, airflow: FakeAirflow, status: str
) -> None:
    airflow.add_submission(status=status)
    result = run("schedule", "s-1", "--intervals", "5")
    assert result.exit_code == 2
    assert f"s-1 is {status}" in result.stderr
    assert airflow.runs == {}


def test_needs_are_sent_as_what_the_form_sends(
    run: Run, airflow: FakeAirflow, module: Path
) -> None:
    needs = ["require_cuda=true", "min_vram_gib=24", "allowed_hosts=a,b", "priority=10", "job=7"]
    options = [word for need in needs for word in ("--needs", need)]

    done = run("submit", str(module), "--intervals", "5", *options)

    assert done.exit_code == 0, done.output
    (conf,) = [sent["conf"] for sent in airflow.runs.values()]
    assert conf["require_cuda"] is True
    assert (conf["min_vram_gib"], conf["priority"], conf["job"]) == (24, 10, "7")
    assert conf["allowed_hosts"] == ["a", "b"]


@pytest.mark.parametrize("need", ["gpus=2", "priority", "priority=high", "require_cuda=perhaps"])
def test_a_need_that_is_none_is_named(run: Run, module: Path, need: str) -> None:
    done = run("submit", str(module), "--intervals", "5", "--needs", need)

    assert done.exit_code == 2
    assert need.partition("=")[0] in done.output


def test_a_paused_dag_is_told_to_whoever_does_not_wait(run: Run, airflow: FakeAirflow) -> None:
    airflow.is_paused = True

    done = run("submit", "https://host/owner/repo.git")

    assert done.exit_code == 0
    assert "the DAG is paused in Airflow" in done.stderr
    assert "follow it" not in done.stderr


@pytest.mark.parametrize(
    ("date", "is_to_come"),
    [
        (None, False),
        ("2020-01-01T00:00:00+00:00", False),
        ("2999-01-01T00:00:00+00:00", True),
    ],
)
def test_a_logical_date_to_come_is_seen(date: str | None, is_to_come: bool) -> None:
    run = ShownRun.model_validate({"run_id": "s-1", "state": "queued", "logical_date": date})
    assert watch.is_to_come(run) is is_to_come


def test_the_same_id_with_the_same_values_goes_on(run: Run, airflow: FakeAirflow) -> None:
    for _ in range(2):
        done = run("submit", "https://example.org/x.git", "--id", "ci-1", "--notes", "a")
        assert done.exit_code == 0, done.output
    assert "ci-1 was submitted before, with the same values: it goes on" in done.output

    other = run("submit", "https://example.org/x.git", "--id", "ci-1", "--notes", "b")

    assert other.exit_code == 2
    assert "id: 'ci-1' is taken; choose another one" in other.output
    assert list(airflow.runs) == ["ci-1"]


def test_columns_are_waived_one_option_each(run: Run, airflow: FakeAirflow, module: Path) -> None:
    options = ("--waive-column", "target", "--waive-column", "-x")
    result = run("submit", str(module), "--id", "s-1", *options)

    assert result.exit_code == 0, result.output
    assert airflow.runs["s-1"]["conf"]["waived_columns"] == ["target", "-x"]


def test_a_column_that_cannot_be_waived_is_refused_before_anything_is_sent(
    run: Run, airflow: FakeAirflow, module: Path
) -> None:
    result = run("submit", str(module), "--waive-column", "spr\u00e4d")

    assert (result.exit_code, airflow.runs, airflow.objects.objects) == (2, {}, {})
    assert "waived_columns.0: " in result.stderr


def test_show_names_the_columns_that_are_waived(run: Run, airflow: FakeAirflow) -> None:
    airflow.add_submission("s-1", status="accepted", waived_columns=["target", "a b"])

    assert "'target', 'a b'; no look-ahead is held against them" in run("show", "s-1").output
    airflow.add_submission("s-2", status="accepted")
    assert "waived" not in run("show", "s-2").output
