"""Models of a training predict rows that came later: nothing is fitted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from eurusd import TOML, read_prices, write_data_set

from conftest import EXAMPLES, Run
from elnigma.errors import ConfigError
from elnigma.score import take_models

RunAttempt = Callable[..., Run]
ROWS = ("split.validation_from=2017-10-01", "split.test_from=2017-12-01")
NEW_ROWS = 200
ARGUMENTS = (
    *("--config", "fast.toml", "--prediction-interval", "6"),
    *("--feature-set", str(EXAMPLES / "momentum")),
    *("--config_override", "training.epochs=1", "--config_override", "backtest.n_resamples=100"),
    *("--config_override", "training.seed_count=2"),
    *(word for each in ROWS for word in ("--config_override", each)),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return two versions of one data set: ``old``, and ``new`` with 200 more rows."""
    prices, folder = read_prices(), tmp_path_factory.mktemp("data")
    newer = TOML.replace('"2018-02"', '"2018-03"')
    return {
        "old": write_data_set(folder / "old", frame=prices[:-NEW_ROWS]),
        "new": write_data_set(folder / "new", frame=prices, text=newer),
    }


def test_saved_models_predict_newer_rows_and_the_old_ones_as_before(
    run_attempt: RunAttempt, data: dict[str, Path]
) -> None:
    identity = {"SUBMISSION_ID": "momentum-1", "TASK_ID": "i6", "SEED": "7"}
    trained = run_attempt("train", *ARGUMENTS, "--data", str(data["old"]), name="t", **identity)
    assert trained.exit_code == 0, trained.console
    models = trained.out / "models"
    scored = run_attempt(
        *("score", *ARGUMENTS, "--data", str(data["new"]), "--models", str(models)),
        name="s",
        **identity,
    )

    assert scored.exit_code == 0, scored.console
    assert scored.verdict["outcome"] == "succeeded"
    before, after = (pd.read_csv(run.out / "predictions.csv") for run in (trained, scored))
    pd.testing.assert_frame_equal(after[: len(before)], before, atol=1e-6, rtol=0)
    assert len(after) == len(before) + NEW_ROWS
    assert (after.part[len(before) :] == "test").all()
    assert after.score_long.between(0, 1).all()
    result, was = scored.result, trained.result
    assert (result["scored"], result["seed"], result["seed_count"]) == (True, 7, 2)
    assert (result["submission_id"], result["task_id"]) == ("momentum-1", "i6")
    assert result["split"]["train"] == was["split"]["train"]
    assert result["split"]["validation"] == was["split"]["validation"]
    assert result["data"]["name"] == "eurusd-hourly 2018-03"
    assert result["features"]["look_ahead"]["leaks"] == 0
    # What predicted is told by its digest, and is what the training has left.
    digests = {file["path"]: file["sha256"] for file in was["files"]}
    assert result["models"]["sha256"] == {
        name: digests[f"models/{name}"]
        for name in ("long.h5", "short.h5", "long-2.h5", "short-2.h5")
    }
    # It fits nothing, and so leaves no model and no figure.
    assert not {"metrics", "params", "scale"} & set(result)
    assert not (scored.out / "models").exists()

    swapped = _copy(models, "swapped")
    for side in ("", "-2"):
        (swapped / f"long{side}.h5").rename(swapped / "other.h5")
        (swapped / f"short{side}.h5").rename(swapped / f"long{side}.h5")
        (swapped / "other.h5").rename(swapped / f"short{side}.h5")
    other = run_attempt(
        *("score", *ARGUMENTS, "--data", str(data["new"]), "--models", str(swapped)), name="x"
    )
    assert other.exit_code == 0, other.console
    theirs = pd.read_csv(other.out / "predictions.csv")
    # The rows of before show it to anybody who has their predictions.
    assert (theirs.score_long[: len(before)] - before.score_long).abs().max() > 4e-3

    broken = _copy(models, "broken")
    (broken / "short.h5").write_bytes(b"no model")
    failed = run_attempt(
        *("score", *ARGUMENTS, "--data", str(data["new"]), "--models", str(broken)), name="f"
    )
    assert failed.exit_code == 3, failed.console
    assert not (failed.out / "predictions.csv").exists()


def _copy(models: Path, name: str) -> Path:
    return Path(shutil.copytree(models, models.parent.parent / name))


def test_a_model_that_is_not_there_or_no_file_is_named(tmp_path: Path) -> None:
    source, target = tmp_path / "models", tmp_path / "taken"
    source.mkdir()
    target.mkdir()
    for name in ("long", "short", "long-2"):
        (source / f"{name}.h5").write_bytes(b"a model")

    assert take_models(source, 1, target) == target
    assert {path.name for path in target.iterdir()} == {"long.h5", "short.h5"}
    with pytest.raises(ConfigError, match=r"--models: short-2\.h5 cannot be read .*seed_count=2"):
        take_models(source, 2, target)
    (source / "short.h5").unlink()
    (source / "short.h5").symlink_to("/etc/passwd")
    with pytest.raises(ConfigError, match=r"short\.h5 is no plain file"):
        take_models(source, 1, target)


def test_a_score_without_models_is_refused(run_attempt: RunAttempt) -> None:
    run = run_attempt("score", "--prediction-interval", "5")
    assert run.exit_code == 2
    assert "--models" in run.verdict["reason"]
