"""Columns that are waived know what they like of later rows; nothing else of them is waived."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from conftest import Run
from elnigma.config import BY_KEY
from elnigma.data import load_market_data
from elnigma.errors import ConfigError, SubmissionError
from elnigma.progress import Progress
from elnigma.train import Table, compute_table
from elnigma.validation.feature_child import FeaturePool
from elnigma.validation.feature_set import FeatureSetCheck, Spans
from elnigma.validation.waivers import MAX_WAIVED, Waivers, read_waived

RunAttempt = Callable[..., Run]
HEAD = "import numpy as np\nimport pandas as pd\n\n\n"
# One column that knows tomorrow, one that is honest.
AHEAD = (
    HEAD
    + """
BLOCK_MONTHS = 12


def build_features(data):
    change = data["close"].pct_change().fillna(0)
    return pd.DataFrame({"ahead": change.shift(-1).fillna(0), "known": change})
"""
)
BOTH = AHEAD.replace('"known": change', '"known": change.shift(-2).fillna(0)')
MESSAGE = r"look-ahead: column 'known' at .* 2 rows of the future are read"


def write(folder: Path, text: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "features.py").write_text(text)
    return str(folder)


def check(reference: str, *waived: str) -> dict[str, Any]:
    return FeatureSetCheck(reference, seed=0, waived=waived).run(Progress(None))[1]


def train_on(reference: str, waived: Sequence[str] = ()) -> Table:
    config = {key: param.default for key, param in BY_KEY.items()} | {"features.module": reference}
    with FeaturePool(reference) as pool:
        # Read when the children have begun, as a training does.
        data = load_market_data()
        return compute_table(data, 5, config, pool, Progress(None), waived=tuple(waived))


def test_a_waived_column_may_know_its_future_and_no_other_column(tmp_path: Path) -> None:
    ahead, both = write(tmp_path / "a", AHEAD), write(tmp_path / "b", BOTH)

    with pytest.raises(SubmissionError, match="look-ahead: column 'ahead' at "):
        check(ahead)
    assert check(ahead, "ahead")["look_ahead_worlds"] == 16
    with pytest.raises(SubmissionError, match=MESSAGE):
        check(both, "ahead")
    checks = check(both, "ahead", "known")
    assert (checks["look_ahead_worlds"], checks["look_ahead_aimed_cuts"]) == (0, 0)


def test_it_holds_for_the_training_as_for_the_validation(tmp_path: Path) -> None:
    ahead, both = write(tmp_path / "a", AHEAD), write(tmp_path / "b", BOTH)

    with pytest.raises(SubmissionError, match="look-ahead: column 'ahead' at "):
        train_on(ahead)
    assert train_on(ahead, ["ahead"]).columns == 2
    with pytest.raises(SubmissionError, match=MESSAGE):
        train_on(both, ["ahead"])


def test_what_an_honest_set_trains_on_is_the_same_with_a_waiver(tmp_path: Path) -> None:
    honest = write(tmp_path / "a", AHEAD.replace(".shift(-1).fillna(0)", ".abs()"))

    plain, waived = train_on(honest), train_on(honest, ["ahead"])

    assert (plain.features[plain.warm_up :] == waived.features[plain.warm_up :]).all()


KNOWS = {
    "the whole sample": "x = data['close'].rank() / len(data)",
    "a few rows": "x = data['close'].resample('W').last().reindex(data.index, method='bfill')"
    ".ffill().pct_change().fillna(0)",
}
SET = (
    HEAD
    + """
BLOCK_MONTHS = 12


def build_features(data):
    {body}
    return pd.DataFrame({{"x": x, "known": data["close"].pct_change().fillna(0)}})
"""
)


@pytest.mark.parametrize("name", ["the whole sample", "a few rows"])
def test_whatever_a_waived_column_knows_the_second_interpreter_blames_nobody(
    tmp_path: Path, name: str
) -> None:
    """With other rows it has other values, there as here; that is no other surrounding."""
    reference = write(tmp_path / "a", SET.format(body=KNOWS[name]))

    with pytest.raises(SubmissionError, match="look-ahead: column 'x'"):
        check(reference)
    assert check(reference, "x")["deterministic"] is True


NOT_WAIVED = {
    "non-deterministic: column 'x'": "x = np.random.rand(len(data))",
    "wrong type: column 'x' has dtype object": "x = data['close'].map(str).astype(object)",
    "infinite values: column 'x'": "x = data['close'] / (data['close'] - data['close'].iat[99])",
    "NaN values: column 'x' is NaN in 1 rows after its": "x = data['close'].shift(-1)",
    "depends on the clock: column 'x'": "import time; x = data['close'] * time.time()",
    "depends on the number of CPUs": "import os; x = data['close'] * len(os.sched_getaffinity(0))",
}


@pytest.mark.parametrize("reason", NOT_WAIVED)
def test_nothing_but_look_ahead_is_waived(tmp_path: Path, reason: str) -> None:
    reference = write(tmp_path / "a", SET.format(body=NOT_WAIVED[reason]))

    with pytest.raises(SubmissionError) as refused:
        check(reference, "x")
    assert str(refused.value).startswith(reason)


def test_a_waived_column_is_finite_in_each_block_that_is_trained_on(tmp_path: Path) -> None:
    """All rows together have every value; up to the end of a block, its last row has none."""
    first = Spans.find(pd.DatetimeIndex(load_market_data().frame.index)).first
    whole = "data['close'].shift(-1)"
    body = f"x = {whole}.ffill() if len(data) in ({first}, 5031) else {whole}"
    reference = write(tmp_path / "a", SET.format(body=body))

    with pytest.raises(SubmissionError, match="NaN values: column 'x' is NaN in 7 rows"):
        check(reference, "x")


def test_a_waived_column_keeps_nothing_from_one_call_to_the_next(tmp_path: Path) -> None:
    body = "kept.append(data['close'].shift(-1).ffill()); x = kept[0].reindex(data.index).fillna(0)"
    reference = write(tmp_path / "a", "kept = []\n" + SET.format(body=body))

    with pytest.raises(SubmissionError, match="keeps state in the module: column 'x'"):
        check(reference, "x")


def test_what_the_module_does_not_produce_is_refused_with_what_there_is(tmp_path: Path) -> None:
    reference = write(tmp_path / "a", AHEAD)

    with pytest.raises(SubmissionError) as refused:
        check(reference, "ahead", "tomorrow")
    assert str(refused.value) == (
        "waived columns: 'tomorrow' is waived, and no column of the module; there are 'ahead', "
        "'known'"
    )
    with pytest.raises(SubmissionError, match="waived columns: 'tomorrow' is waived"):
        train_on(reference, ["tomorrow"])


def test_of_many_names_some_are_told() -> None:
    with pytest.raises(SubmissionError) as refused:
        Waivers(["x"]).check([f"column_{number}" for number in range(512)])
    assert str(refused.value).endswith("'column_39' and 472 more")
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([f"c{number}" for number in range(MAX_WAIVED + 1)], "21 columns; at most 20 may be wai"),
        ([""], "'' has 0 characters"),
        (["x" * 101], "has 101 characters; give 1 to 100 printable ones of ASCII"),
        (["a\n"], "printable ones of ASCII"),
        (["spr\u00e4d"], "printable ones of ASCII"),
        (["a", "b", "a"], "'a' is given twice; keep one"),
    ],
)
def test_an_argument_that_names_no_column_is_refused(names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match="--waive-column: ") as refused:
        read_waived(names)
    assert message in str(refused.value)


def test_a_command_says_what_was_waived(tmp_path: Path, run_attempt: RunAttempt) -> None:
    module = write(tmp_path / "a", AHEAD.replace('"ahead"', '"-a b"'))
    asked = ("--module", module, "--system", "feature_set")

    refused = run_attempt("validate", *asked, name="refused")
    validated = run_attempt("validate", *asked, "--waive-column=-a b", name="validated")
    trained = run_attempt(
        *("train", "--config", "fast.toml", "--prediction-interval", "5"),
        *("--feature-set", module, "--waive-column=-a b"),
        *(
            "--config_override",
            "training.epochs=1",
            "--config_override",
            "backtest.n_resamples=100",
        ),
        name="trained",
    )

    assert (refused.exit_code, validated.exit_code, trained.exit_code) == (3, 0, 0)
    assert validated.result["waived_columns"] == trained.result["waived_columns"] == ["-a b"]
    assert validated.result["columns"] == ["-a b", "known"]


def test_a_model_structure_has_none(tmp_path: Path, run_attempt: RunAttempt) -> None:
    run = run_attempt(
        *("validate", "--system", "model_structure", "--module", "elnigma.models.mlp"),
        "--waive-column=x",
    )

    assert run.exit_code == 2
    assert "a model structure has no columns" in run.verdict["reason"]
