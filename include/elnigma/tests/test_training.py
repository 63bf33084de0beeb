"""Whole trainings, in processes of their own, as a control plane starts them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest

import elnigma.features.reference
from conftest import Run, build_environment
from elnigma.metric_names import METRICS

RunAttempt = Callable[..., Run]
FAST = ("train", "--config", "fast.toml", "--prediction-interval", "5")
IDENTITY = {"SUBMISSION_ID": "sub-1", "TASK_ID": "i5", "MODEL_GROUP_ID": "g-1", "SEED": "7"}


def test_a_module_by_path_and_by_name_gives_the_same_bits_in_two_processes(
    run_attempt: RunAttempt, tmp_path: Path
) -> None:
    folder = tmp_path / "content"
    folder.mkdir()
    shutil.copy(elnigma.features.reference.__file__, folder / "features.py")
    by_name = run_attempt(
        *FAST, "--feature-set", "elnigma.features.reference", name="by_name", **IDENTITY
    )
    by_path = run_attempt(*FAST, "--feature-set", str(folder), name="by_path", **IDENTITY)
    assert by_name.exit_code == by_path.exit_code == 0
    assert by_name.result["metrics"] == by_path.result["metrics"]
    for path in ("predictions.csv", "models/long.h5", "models/short.h5", "charts/equity.png"):
        assert (by_name.out / path).read_bytes() == (by_path.out / path).read_bytes()
    _check_outputs(by_name)


def _check_outputs(run: Run) -> None:
    result = run.result
    assert set(result["metrics"]) == set(METRICS)
    assert result["metrics"]["n_test_rows"] == 1253  # 2014 to 2018, less the last five days
    identity = ("submission_id", "task_id", "model_group_id", "seed", "prediction_interval")
    assert [result[name] for name in identity] == ["sub-1", "i5", "g-1", 7, 5]
    predictions = run.out / "predictions.csv"
    assert hashlib.sha256(predictions.read_bytes()).hexdigest() == result["predictions_sha256"]
    frame = pd.read_csv(predictions)
    assert list(frame.columns) == ["time", "part", "score_long", "score_short"]
    assert frame["time"].is_monotonic_increasing
    assert set(frame["part"]) == {"validation", "test"}
    for part, rows in frame.groupby("part"):
        told = result["split"][part]
        found = {"first": rows["time"].iloc[0], "last": rows["time"].iloc[-1], "rows": len(rows)}
        assert found == told
    assert result["split"]["test"]["first"] == "2014-01-02T00:00:00+00:00"
    assert result["split"]["train"]["last"] == "2010-12-23T00:00:00+00:00"  # Less five days.
    assert result["contract"] == 2
    assert result["features"]["look_ahead"] == {
        "cuts": 16, "blocks": 95, "block_months": 1, "worlds": 16, "aimed_cuts": 8, "leaks": 0,
        "fresh_processes": 2,
    }  # fmt: skip
    assert result["models"]["reproduced_rows"] == len(frame)
    assert result["models"]["largest_difference"] <= 1e-6
    assert frame[["score_long", "score_short"]].to_numpy().std() > 0
    returns = pd.read_csv(run.out / "returns.csv")
    equity = (1 + returns["net"]).prod() - 1
    assert result["metrics"]["total_return"] == pytest.approx(equity, rel=1e-9)
    lines = (run.out / "progress.jsonl").read_text().splitlines()
    percents = [json.loads(line)["percent"] for line in lines]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    config = json.loads((run.out / "effective_config.json").read_text())
    assert config["training"]["epochs"] == 3
    assert config["training"]["seed"] == 7
    listed = {file["path"] for file in run.verdict["files"]}
    assert {file["path"] for file in result["files"]} < listed
    first_step = datetime.fromisoformat(result["timings"]["first_step_at"])
    began, ended = (
        datetime.fromisoformat(run.verdict[f"{name}_at"]) for name in ("started", "ended")
    )
    assert began < first_step < ended
    assert 0 < result["timings"]["step_seconds"] < (ended - first_step).total_seconds()


def test_another_seed_gives_other_predictions_and_arguments_reach_the_config(
    run_attempt: RunAttempt,
) -> None:
    run = run_attempt(
        *FAST, "--fetched-data-end-to", "2018-06-29", "--config_override", "model.units=4",
        "--model-structure", "elnigma.models.mlp", "--", "--epochs", "2", SEED="8",
    )  # fmt: skip
    assert run.exit_code == 0
    assert run.result["data"]["last"] == "2018-06-29"
    assert run.result["params"]["model.units"] == 4
    assert run.result["params"]["training.epochs"] == 2
    assert run.result["params"]["features.module"] == "elnigma.features.reference"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--prediction-interval", "0"), "--prediction-interval must be from 1 to 250, not 0"),
        (("--prediction-interval", "x"), "arguments: argument --prediction-interval"),
        (
            ("--prediction-interval", "5", "--config_override", "training.epoch=1"),
            "--config_override: unknown key 'training.epoch'; did you mean training.epochs?",
        ),
        (
            ("--prediction-interval", "5", "--fetched-data-end-to", "30.06.2018"),
            "--fetched-data-end-to must be a day, YYYY-MM-DD, not '30.06.2018'",
        ),
        (
            ("--prediction-interval", "5", "--fetched-data-end-to", "2010-01-01"),
            "split: 0 validation rows, at least 60 are needed; data end on 2009-12-31",
        ),
        (("--prediction-interval", "5", "--config", "../../x.toml"), "leads out of the config"),
        (("--prediction-interval", "5", "--colour", "red"), "unrecognized arguments: --colour red"),
    ],
)
def test_wrong_arguments_exit_2_with_the_reason(
    run_attempt: RunAttempt, arguments: tuple[str, ...], reason: str
) -> None:
    run = run_attempt("train", *arguments)
    assert (run.exit_code, run.verdict["class"]) == (2, "config")
    assert reason in run.verdict["reason"]


def test_another_contract_is_refused(run_attempt: RunAttempt) -> None:
    run = run_attempt("train", "--prediction-interval", "5", CONTRACT="3")
    assert (run.exit_code, run.verdict["class"]) == (2, "config")
    assert "contract '3' is not spoken here; this trainer speaks 1 and 2" in run.verdict["reason"]


def test_describe_answers_at_once_and_names_every_metric() -> None:
    text = subprocess.run(
        [sys.executable, "-P", "-m", "elnigma", "describe"],
        check=True, capture_output=True,
    ).stdout  # fmt: skip
    described = json.loads(text)
    assert described["contract"] == 2
    assert described["contracts"] == [1, 2]
    assert set(described["metrics"]) == set(METRICS)
    assert described["hyper"]["epochs"]["type"] == "integer"
    assert described["hyper"]["epochs"]["key"] == "training.epochs"


MOVED = """
import datetime, time_machine
there = datetime.datetime(2030, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
time_machine.travel(there, tick=True).start()
"""


def test_day_hash_seed_locale_and_cpus_make_no_difference(
    run_attempt: RunAttempt, tmp_path: Path
) -> None:
    here = run_attempt(*FAST, **IDENTITY)
    out, site = tmp_path / "there", tmp_path / "site"
    out.mkdir()
    site.mkdir()
    (site / "sitecustomize.py").write_text(MOVED)
    one_cpu = {min(os.sched_getaffinity(0))}
    subprocess.run(
        [sys.executable, "-P", "-m", "elnigma_runner", *FAST, "--out", str(out)],
        env=build_environment(out, **IDENTITY)
        | {
            "PYTHONHASHSEED": "5",
            "LC_ALL": "tr_TR.UTF-8",
            "TZ": "Pacific/Kiritimati",
            "PYTHONPATH": str(site),
        },
        preexec_fn=lambda: os.sched_setaffinity(0, one_cpu),
        check=True,
    )
    there = json.loads((out / "result.json").read_text())
    assert there["started_at"].startswith("2030-02-03")
    assert there["predictions_sha256"] == here.result["predictions_sha256"]
