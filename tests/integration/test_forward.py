"""Models that the real trainer has left predict later rows, and the real judge scores these."""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import math
import random
import subprocess
from pathlib import Path

import pytest

from fakes.data_sets import build_text
from touchstone.confined.forward import ask_for_forward
from touchstone.confined.judge import find_judge
from touchstone.core.data_sets import PinnedData, build_digest
from touchstone.core.forward import build_question
from touchstone.core.judging_rules import build_rules
from touchstone.core.schedule import Schedule
from touchstone.core.tasks import (
    Forwarded,
    ForwardModel,
    Replayed,
    ReplayedFile,
    build_argv,
    build_environment,
    build_training_specs,
    build_validation_spec,
)
from touchstone.settings import Settings
from touchstone_agent.protocol.messages import AttemptRef, Limits

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
TRAINER = ROOT / "include" / "elnigma" / ".venv" / "bin" / "python"
MODULE = ROOT / "include" / "examples" / "momentum"
INTERVAL, OLD, NEW = 6, 2400, 2900
START = dt.datetime(2017, 7, 1, tzinfo=dt.UTC)
TIMES = [START + dt.timedelta(hours=2 * row) for row in range(NEW)]
SAVED = TIMES[OLD - 1]
SCHEDULE = Schedule(
    intervals=[INTERVAL],
    seed=7,
    seed_count=2,
    config_file="fast.toml",
    config_overrides=["training.epochs=1"],
)


def write_data(folder, version, rows):
    """Write a version of a data set into the folder of an attempt's inputs, and pin it."""
    draw, close, lines = random.Random(1), 1.1, ["time,close"]
    for moment in TIMES[:rows]:
        close *= math.exp(draw.gauss(0, 0.002))
        lines.append(f"{moment.isoformat()},{close!r}")
    body = "\n".join([*lines, ""]).encode()
    text = build_text(version=version, body=body, frequency='"2h"', calendar='"24x7"')
    target = folder / "data"
    target.mkdir(parents=True)
    (target / "data.toml").write_text(text)
    (target / "eurusd.csv").write_bytes(body)
    return PinnedData(
        name="eurusd-hourly",
        version=version,
        digest=build_digest(text.encode(), body),
        sha256="f" * 64,
        size=1,
        validation_from=dt.date(2017, 10, 1),
        test_from=dt.date(2017, 12, 1),
        bars_per_year=4380,
    )


def run(spec, inputs, out):
    """Run an attempt as its START says, without a container."""
    out.mkdir()
    replaced = {"{in}/content": str(MODULE), "{out}": str(out)}
    words = [replaced.get(word, word.replace("{in}", str(inputs))) for word in build_argv(spec)]
    ref = AttemptRef(submission_id="s-1", task_id=spec.task_id, attempt=1, fence=1)
    variables = {"PATH": "/usr/bin:/bin", "HOME": str(out), "LANG": "C.UTF-8"}
    variables |= build_environment(spec, ref)
    variables |= {"TOUCHSTONE_OUT": str(out), "TOUCHSTONE_IN": str(inputs)}
    done = subprocess.run(
        [str(TRAINER), "-P", "-m", "elnigma_runner", *words],
        env=variables,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, (out / "console.log").read_text()


def test_the_rows_that_the_trainer_predicts_are_those_that_the_judge_scores(tmp_path):
    old = write_data(tmp_path / "old", "2018-02", OLD)
    new = write_data(tmp_path / "new", "2018-03", NEW)
    validation = build_validation_spec(
        "s-1",
        system="feature_set",
        image="trainer",
        content_sha256="0" * 64,
        content_size=1,
        limits=Limits(),
        data=old,
    )
    (training,) = build_training_specs(validation, SCHEDULE, limits=Limits())
    run(training, tmp_path / "old", tmp_path / "trained")
    models = tmp_path / "new" / "models"
    (tmp_path / "trained" / "models").rename(models)
    forward = Forwarded(
        models=tuple(
            ForwardModel(
                name=path.stem,
                sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                size=path.stat().st_size,
            )
            for path in sorted(models.iterdir())
        ),
        data=old,
        rules=build_rules(old),
        saved_at=SAVED,
        added_at=TIMES[-1],
    )
    left = ReplayedFile(sha256="0" * 64, size=1)
    replayed = Replayed(
        submission_id="s-1",
        task_id="i6",
        key="s-1/i6",
        attempt=1,
        fence=1,
        result=left,
        predictions=left,
        forward=forward,
    )
    scoring = training.model_copy(update={"replay": replayed, "data": new})
    run(scoring, tmp_path / "new", tmp_path / "scored")

    question = build_question(
        forward,
        interval=INTERVAL,
        before=str(tmp_path / "trained" / "predictions.csv"),
        predictions=str(tmp_path / "scored" / "predictions.csv"),
        data_before=str(tmp_path / "old" / "data"),
        data_dir=str(tmp_path / "new" / "data"),
    )
    found = ask_for_forward(find_judge(Settings()), question)

    assert found.judged, found.reason
    counted = [row for row in TIMES[: NEW - INTERVAL] if row > SAVED + dt.timedelta(days=1)]
    assert (found.rows, found.first, found.last) == (len(counted), counted[0], counted[-1])
    assert found.metrics["net_sharpe_low"] < found.metrics["net_sharpe"]
    with (tmp_path / "scored" / "predictions.csv").open() as file:
        assert list(csv.DictReader(file))[-1]["time"] == counted[-1].isoformat()

    # Under another's name a model is another model.
    for before, after in (("long", "other"), ("short", "long"), ("other", "short")):
        (models / f"{before}.h5").rename(models / f"{after}.h5")
    run(scoring, tmp_path / "new", tmp_path / "swapped")
    swapped = {**question, "predictions": str(tmp_path / "swapped" / "predictions.csv")}
    assert ask_for_forward(find_judge(Settings()), swapped).reason.startswith("other models (")
