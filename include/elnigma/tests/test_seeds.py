"""Several seeds of one training: each trains as if alone, and predictions are their mean."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from conftest import Run
from elnigma.config import build_config
from elnigma.errors import ConfigError, ContractError, DivergedError
from elnigma.fitting import FittedSeed, Learner, list_models
from elnigma.progress import Progress

RunAttempt = Callable[..., Run]
FAST = (
    *("train", "--config", "fast.toml", "--prediction-interval", "5"),
    *("--config_override", "training.epochs=1", "--config_override", "backtest.n_resamples=100"),
)
COUNT = ("--config_override", "training.seed_count=2")
DIVERGES = """
import keras
import numpy as np


def build_model(n_features, params):
    rate = 0.01 if np.random.get_state()[1][0] in (7, 8) else float("nan")
    model = keras.Sequential([keras.layers.Dense(1, "sigmoid")])
    model.compile(optimizer=keras.optimizers.Adam(rate), loss="binary_crossentropy")
    return model
"""


def test_one_seed_leaves_what_it_left_before_there_were_several(run_attempt: RunAttempt) -> None:
    run = run_attempt(
        "train", "--config", "fast.toml", "--prediction-interval", "5", name="one", SEED="7"
    )

    result = run.result
    assert (result["seed"], result["seed_count"]) == (7, 1)
    assert [each["seed"] for each in result["seeds"]] == [7]
    assert result["params"]["epochs_long"] == result["seeds"][0]["epochs_long"] == 3
    assert {path.name for path in (run.out / "models").iterdir()} == {"long.h5", "short.h5"}


def test_each_seed_trains_as_if_it_were_alone_and_predictions_are_the_mean(
    run_attempt: RunAttempt,
) -> None:
    both = run_attempt(*FAST, *COUNT, name="both", SEED="7")
    alone = [run_attempt(*FAST, name=f"seed{seed}", SEED=str(seed)) for seed in (7, 8)]

    result = both.result
    assert (both.exit_code, result["seed"], result["seed_count"]) == (0, 7, 2)
    for name, run, source in (
        *(("long", alone[0], "long"), ("short", alone[0], "short")),
        *(("long-2", alone[1], "long"), ("short-2", alone[1], "short")),
    ):
        ours, theirs = both.out / f"models/{name}.h5", run.out / f"models/{source}.h5"
        assert ours.read_bytes() == theirs.read_bytes()
    listed = {file["path"] for file in result["files"]}
    assert {f"models/{name}.h5" for name in list_models(2)} < listed
    # What is told of each seed, and of both together.
    assert result["seeds"] == [run.result["seeds"][0] for run in alone]
    assert result["params"]["epochs_long"] == 2
    assert result["models"]["largest_difference"] == max(
        run.result["models"]["largest_difference"] for run in alone
    )
    frame, first, second = (pd.read_csv(run.out / "predictions.csv") for run in (both, *alone))
    for side in ("score_long", "score_short"):
        np.testing.assert_array_equal(frame[side], (first[side] + second[side]) / 2)
        assert (first[side] != second[side]).any()
    lines = [json.loads(line) for line in (both.out / "progress.jsonl").read_text().splitlines()]
    percents = [line["percent"] for line in lines]
    assert percents == sorted(percents)
    phases = [line["phase"] for line in lines]
    assert "training short model, seed 2 of 2, epoch 1" in phases
    assert "checking the saved models, seed 1 of 2" in phases


def test_the_seed_that_fails_is_named(run_attempt: RunAttempt, tmp_path: Path) -> None:
    folder = tmp_path / "content"
    folder.mkdir()
    # The long model of seed s is drawn by s, the short one by s + 1.
    (folder / "model.py").write_text(DIVERGES)

    run = run_attempt(*FAST, *COUNT, "--model-structure", str(folder), SEED="7")

    assert (run.exit_code, run.verdict["class"]) == (4, "diverged")
    assert run.verdict["reason"].startswith("seed 8 (2 of 2): diverged: ")
    assert not (run.out / "result.json").exists()
    assert not (run.out / "models").exists()


@pytest.mark.parametrize("value", ["0", "11", "1.5", "'3'"])
def test_how_many_seeds_is_bounded(value: str) -> None:
    with pytest.raises(ConfigError, match=r"training\.seed_count must be"):
        build_config("fast.toml", (), (f"training.seed_count={value}",))


def test_it_is_no_flag_since_the_schedule_has_a_field_for_it() -> None:
    with pytest.raises(ConfigError, match="unknown flag '--seed_count'"):
        build_config("fast.toml", ("--seed_count", "3"), ())


class Scripted(Learner):
    """One whose seeds are made up: of seed s, each row's score is s / 100."""

    def __init__(self, folder: Path, *, fails: int | None = None, forges: bool = False) -> None:
        super().__init__(None, None)  # type: ignore[arg-type]
        self.folder, self.fails, self.forges = folder, fails, forges
        self.begun = 0

    def begin(self) -> None:
        self.begun += 1

    def load(self, config: dict[str, Any]) -> int:
        return int(config["model.window"])

    def _fit_seed(  # type: ignore[override]
        self, _prepared: object, config: dict[str, Any], _teller: object, _steps: object,
        files: dict[str, Path],
    ) -> tuple[FittedSeed, dict[str, np.ndarray]]:  # fmt: skip
        seed = config["training.seed"]
        if seed == self.fails:
            raise DivergedError("diverged: loss became nan")
        for path in files.values():
            path.write_text(str(seed))
        if self.forges and seed == 3:
            (self.folder / "long.h5").write_text("another")
        digests = {path: hashlib.sha256(str(seed).encode()).hexdigest() for path in files.values()}
        scores = {side: np.full(4, seed / 100) for side in files}
        found = {"epochs_long": seed}
        return FittedSeed(seed=seed, found=found, difference=seed, digests=digests), scores


def fit(learner: Scripted, tmp_path: Path, count: int) -> Any:
    config = {"training.seed": 1, "training.seed_count": count, "model.window": 1}
    return learner.fit(SimpleNamespace(), config, Progress(None), tmp_path)  # type: ignore[arg-type]


def test_seeds_are_consecutive_and_their_processes_are_too(tmp_path: Path) -> None:
    learner = Scripted(tmp_path)

    found = fit(learner, tmp_path, 3)

    assert [each.seed for each in found.seeds] == [1, 2, 3]
    assert learner.begun == 2  # The first one was begun by who made it.
    np.testing.assert_allclose(found.scores["long"], 0.02)
    assert (found.found, found.difference) == ({"epochs_long": 6}, 3)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"{name}.h5" for name in list_models(3)}


def test_of_several_seeds_the_one_that_fails_is_named_and_of_one_it_is_not(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"^seed 3 \(3 of 4\): diverged: loss became nan$"):
        fit(Scripted(tmp_path, fails=3), tmp_path, 4)
    with pytest.raises(DivergedError, match=r"^diverged: loss became nan$"):
        fit(Scripted(tmp_path, fails=1), tmp_path, 1)


def test_a_model_of_an_earlier_seed_that_was_changed_is_found(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="changed a saved model"):
        fit(Scripted(tmp_path, forges=True), tmp_path, 3)
