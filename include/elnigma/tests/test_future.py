"""What knows its future is caught, on the rows that are judged; what does not, passes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from future_cases import HONEST, LEAKING
from future_table import MOST_SECONDS, is_right

from conftest import Run
from elnigma.config import BY_KEY, Config
from elnigma.data import MarketData, load_market_data
from elnigma.errors import ContractError, SubmissionError
from elnigma.isolation import Conversation, Reply
from elnigma.progress import Progress
from elnigma.train import Table, compute_table
from elnigma.validation.feature_child import FeaturePool
from elnigma.validation.feature_set import FeatureSetCheck, Spans
from elnigma.validation.look_ahead import (
    DROPPED,
    choose_judged_cuts,
    compare_before,
    find_block_ends,
    find_scale,
    format_two,
)
from elnigma.validation.worlds import (
    World,
    build_world,
    check_placebos,
    check_real_outcomes,
    correlate,
    find_suspects,
)

SAMPLE = 6
NAMES = [*LEAKING, *HONEST]
if os.environ.get("TOUCHSTONE_CAMPAIGNS") != "full":
    # Always the two that no cut drawn at random would show, and what reads no row at all.
    always = ["rare-rows", "shipped-table-in-a-real-feature", "answers-itself"]
    # One for each way to learn the stage: the environment was forgotten once.
    always += ["in-a-training-only", "by-the-arguments"]
    drawn = random.Random(40)
    NAMES = [*always, *drawn.sample(sorted(LEAKING), SAMPLE), *drawn.sample(sorted(HONEST), SAMPLE)]
NAMES = list(dict.fromkeys(NAMES))


@pytest.fixture(scope="module")
def judged() -> dict[str, dict[str, Any]]:
    """Each case validated, by a process that has loaded no backend."""
    found = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("future_table.py")), "--json", *NAMES],
        check=False,
        stdout=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "TZ": "UTC"},
    )
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    return {line["name"]: line for line in lines}


@pytest.mark.parametrize("name", NAMES)
def test_a_case_gets_what_it_deserves(judged: dict[str, dict[str, Any]], name: str) -> None:
    assert is_right(judged[name]), judged[name]["reason"]
    assert judged[name]["own_seconds"] < MOST_SECONDS * 3  # On a machine that does other things.


def test_there_is_a_case_of_each_kind() -> None:
    assert len(LEAKING) >= 33
    assert len(HONEST) >= 34


# --- where it is looked for -------------------------------------------------------------------


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return load_market_data().frame


@pytest.fixture(scope="module")
def market() -> MarketData:
    return load_market_data()


@pytest.fixture(scope="module")
def spans(data: pd.DataFrame) -> Spans:
    return Spans.find(pd.DatetimeIndex(data.index))


def test_cuts_are_in_the_validation_and_in_the_test_years(data: pd.DataFrame, spans: Spans) -> None:
    test_from = pd.Timestamp(BY_KEY["split.test_from"].default, tz="UTC")
    for seed in range(20):
        cuts = choose_judged_cuts(spans.parts, np.random.default_rng(seed))
        days = data.index[cuts]
        assert len(set(cuts)) == 16
        assert ((days >= "2011-01-01") & (days < test_from)).sum() == 8
        assert (days >= test_from).sum() == 8


@pytest.mark.parametrize(("months", "count"), [(1, 95), (3, 31), (12, 7)])
def test_blocks_end_with_months(data: pd.DataFrame, spans: Spans, months: int, count: int) -> None:
    index = pd.DatetimeIndex(data.index)
    ends = find_block_ends(index, spans.first, months)
    assert len(ends) == count
    assert all(index[end].month != index[end - 1].month for end in ends)
    assert all((index[end].month - 1) % months == 0 for end in ends)


WRITTEN = """
import os
import time


{above}


def build_features(data):
    with open(os.environ["TMPDIR"] + "/calls", "a"):
        time.sleep({seconds})
    return data[["close"]].pct_change().fillna(0)
"""


def write(folder: Path, text: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "features.py").write_text(text)
    return str(folder)


def check(reference: str) -> dict[str, Any]:
    return FeatureSetCheck(reference, seed=0).run(Progress(None))[1]


def test_as_much_is_checked_of_what_takes_longer(tmp_path: Path) -> None:
    """By time, a busy machine would check less."""
    counts = []
    for seconds in (0, 0.15):
        text = WRITTEN.format(above="BLOCK_MONTHS = 12", seconds=seconds)
        checks = check(write(tmp_path / str(seconds), text))
        counts.append({k: v for k, v in checks.items() if k.startswith("look_ahead")})
    assert counts[0] == counts[1]
    assert counts[0] == {
        "look_ahead_cuts": 16,
        "look_ahead_blocks": 7,
        "look_ahead_block_months": 12,
        "look_ahead_worlds": 16,
        "look_ahead_aimed_cuts": 8,
        "look_ahead_leaks": 0,
    }


@pytest.mark.parametrize("declared", ["True", "0", "5", "1.0", "'month'"])
def test_blocks_that_divide_no_year_are_refused(tmp_path: Path, declared: str) -> None:
    text = WRITTEN.format(above=f"BLOCK_MONTHS = {declared}", seconds=0)
    with pytest.raises(SubmissionError, match=rf"BLOCK_MONTHS is {declared} in features\.py"):
        check(write(tmp_path / "module", text))


# --- what a child has -------------------------------------------------------------------------


SPY = """
import gc
import os
import sys

import numpy as np
import pandas as pd


def build_features(data):
    rows = [len(thing) for thing in gc.get_objects() if isinstance(thing, pd.DataFrame)]
    sizes = [thing.size for thing in gc.get_objects() if isinstance(thing, np.ndarray)]
    told = [name for name in os.environ if name.startswith("TOUCHSTONE_")]
    opened = []
    for number in os.listdir("/proc/self/fd"):
        try:
            opened.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            pass  # of this list itself
    found = [
        max(rows, default=0) > len(data),
        max(sizes, default=0) > data.size + 2 * len(data),
        bool(told) or len(sys.argv) > 1,
        # The console twice over, nowhere, and both pipes; and what of it the kernel tells in /proc.
        len([name for name in opened if not name.startswith(f"/proc/{os.getpid()}/")]) > 8,
    ]
    if any(found):
        raise ValueError(f"found {found}")
    return data
"""


def test_a_child_has_the_rows_it_is_given_and_no_others(
    tmp_path: Path, data: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other data, files and hints are not there, and what it is given is what there is."""
    monkeypatch.setenv("TOUCHSTONE_TASK_ID", "validation")
    script = f"""
import sys
sys.argv[:] = ["elnigma", "validate"]
import pandas
from elnigma.data import MarketData, load_market_data
from elnigma.validation.feature_child import FeaturePool
with FeaturePool({write(tmp_path / "module", SPY)!r}) as pool:
    data = load_market_data().frame
    for cut in (3000, 5031):
        with pool.take() as child:
            for _ in range(2):
                found = child.compute(data.iloc[:cut])
        assert found.columns == list(data.columns)
        assert (found.values == data.iloc[:cut].to_numpy()).all()
"""
    subprocess.run([sys.executable, "-P", "-c", script], check=True)


@pytest.mark.parametrize("first", [0, 2990])
def test_only_the_rows_that_are_wanted_come_back(
    tmp_path: Path, data: pd.DataFrame, first: int
) -> None:
    reference = write(tmp_path / "module", "def build_features(data):\n    return data\n")
    with FeaturePool(reference) as pool, pool.take() as child:
        found = child.compute(data.iloc[:3000], first)
    assert np.array_equal(found.values, data.iloc[first:3000].to_numpy())


def test_what_is_no_answer_is_not_believed() -> None:
    def answer(question: Reply) -> Reply:
        for descriptor in range(3, 20):
            try:
                os.write(descriptor, bytes(7) + b"\x04nope" + bytes(8))
            except OSError:
                continue
        return question

    with (
        Conversation.fork(answer) as conversation,
        pytest.raises(ContractError, match="replied in place of the trainer"),
    ):
        conversation.ask(Reply(facts={}))


# --- state, the clock, the warm-up ------------------------------------------------------------


REASONS = {
    "module": (
        "calls = []\n\n\ndef build_features(data):\n    calls.append(1)\n"
        "    return data[['close']] * len(calls)\n",
        "keeps state in the module: column 'close' at 1999-01-04 is ",
    ),
    "module-once": (
        "kept = []\n\n\ndef build_features(data):\n"
        "    kept.append(data[['close']].pct_change())\n"
        "    return kept[0].reindex(data.index).fillna(0)\n",
        "keeps state in the module: column 'close' has another value at ",
    ),
    "file": (
        "import pathlib, tempfile\n\n\ndef build_features(data):\n"
        "    file = pathlib.Path(tempfile.gettempdir(), 'n')\n"
        "    n = int(file.read_text()) + 1 if file.exists() else 1\n    file.write_text(str(n))\n"
        "    return data[['close']] * n\n",
        "keeps state in files: column 'close' at 1999-01-04 is ",
    ),
    "clock": (
        "import time\n\n\ndef build_features(data):\n    return data[['close']] * time.time()\n",
        "depends on the clock: column 'close' at 1999-01-04 is ",
    ),
    "unseeded": (
        "import numpy\n\n\ndef build_features(data):\n"
        "    return data[['close']] * numpy.random.rand()\n",
        "non-deterministic: column 'close' at 1999-01-04 is ",
    ),
    "complex": (
        "def build_features(data):\n    return data[['close']] * 1j\n",
        "wrong type: column 'close' has dtype complex128, ",
    ),
    "object": (
        "def build_features(data):\n    return data[['close']].map(str).astype(object)\n",
        "wrong type: column 'close' has dtype object, ",
    ),
}


@pytest.mark.parametrize("name", REASONS)
def test_what_is_no_look_ahead_has_a_reason_of_its_own(tmp_path: Path, name: str) -> None:
    text, reason = REASONS[name]
    with pytest.raises(SubmissionError) as found:
        check(write(tmp_path / "module", text))
    assert str(found.value).startswith(reason)


LONG = "{above}\n\n\ndef build_features(data):\n    return data[['close']].pct_change({rows})\n"


def train_on(data: MarketData, config: Config) -> Table:
    with FeaturePool(config["features.module"]) as pool:
        return compute_table(data, 5, config, pool, Progress(None))


def test_a_declared_warm_up_holds_for_validation_and_training(
    tmp_path: Path, market: MarketData
) -> None:
    declared = write(tmp_path / "a", LONG.format(above="WARM_UP = 800", rows=700))
    config = {key: param.default for key, param in BY_KEY.items()}
    assert check(declared)["warm_up_rows"] == 700
    assert train_on(market, config | {"features.module": declared}).warm_up == 700

    undeclared = write(tmp_path / "b", LONG.format(above="", rows=700))
    reason = (
        "needs 700 rows to warm up; shorten its window to 600 rows or fewer, or declare WARM_UP"
    )
    with pytest.raises(SubmissionError, match=reason):
        check(undeclared)
    with pytest.raises(SubmissionError, match=reason):
        train_on(market, config | {"features.module": undeclared})


@pytest.mark.parametrize("declared", ["2001", "-1", "True", "700.0"])
def test_a_warm_up_of_no_number_of_rows_is_refused(tmp_path: Path, declared: str) -> None:
    reference = write(tmp_path / "module", LONG.format(above=f"WARM_UP = {declared}", rows=5))
    with pytest.raises(SubmissionError, match=rf"WARM_UP is {declared} in features\.py"):
        check(reference)


# --- what is a difference ---------------------------------------------------------------------


def test_what_is_lost_of_a_float32_is_no_difference_and_more_is() -> None:
    full = np.random.default_rng(0).normal(5, 1, (1000, 1))
    scale = find_scale(full)
    for change, count in ((3e-7, 0), (1e-5, 1)):
        other = full.copy()
        other[900] += change
        assert len(compare_before(full, other, ["x"], 1000, DROPPED, scale=scale)) == count


def test_outliers_hide_no_difference() -> None:
    full = np.random.default_rng(0).normal(0, 0.01, (1000, 1))
    full[::100] = 1e9
    other = full.copy()
    other[955] += 0.01
    scale = find_scale(full)
    assert len(compare_before(full, other, ["x"], 1000, DROPPED, scale=scale)) == 1


def test_two_numbers_have_as_many_digits_as_it_takes() -> None:
    assert format_two(0.25, 0.5) == ("0.25", "0.5")
    assert format_two(0.07062031, 0.07062034) == ("0.07062031", "0.07062034")


# --- worlds -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def worlds(market: MarketData, spans: Spans) -> list[World]:
    rng = np.random.default_rng(3)
    return [build_world(market, spans.first, rng) for _ in range(16)]


@pytest.fixture
def honest(worlds: list[World], spans: Spans) -> list[np.ndarray]:
    """Of each world: its level, what was, and a drift that knows the day alone."""

    def compute(frame: pd.DataFrame) -> np.ndarray:
        columns = [np.log(frame["close"])]
        columns += [np.log(frame["close"]).diff(lag) for lag in (1, 20, 250)]
        columns += [pd.Series(np.arange(len(frame), dtype=float), frame.index)]
        return np.column_stack(columns)[spans.first :]

    return [compute(world.data.frame) for world in worlds]


def test_a_world_is_as_it_was_before_the_judged_rows_and_another_one_behind(
    data: pd.DataFrame, spans: Spans, worlds: list[World]
) -> None:
    for world in worlds[:3]:
        frame = world.data.frame
        pd.testing.assert_frame_equal(frame.iloc[: spans.first], data.iloc[: spans.first])
        assert (frame > 0).all().all()
        assert (frame["high"] >= frame["low"] * (1 - 1e-12)).all()
        now, then = (each["close"].pct_change().to_numpy()[spans.first :] for each in (frame, data))
        assert abs(np.corrcoef(now, then)[0, 1]) < 0.1


def test_honest_features_know_no_outcomes(
    market: MarketData, spans: Spans, worlds: list[World], honest: list[np.ndarray]
) -> None:
    columns = list("abcde")
    for start in range(0, 16, 2):
        check_placebos(worlds[start : start + 2], honest[start : start + 2], columns)
    check_real_outcomes(np.mean(honest, axis=0), market, spans.first, columns)


def test_a_little_of_the_next_return_is_known_in_every_world(
    worlds: list[World], honest: list[np.ndarray]
) -> None:
    guilty = []
    for world, values in zip(worlds, honest, strict=True):
        ahead = np.nan_to_num(world.outcomes[1])
        guilty.append(values[:, [1]] + 0.2 * ahead[:, None])
    with pytest.raises(SubmissionError, match="column 'x' knows outcomes of days drawn at random"):
        check_placebos(worlds[:2], guilty[:2], ["x"])


def test_what_is_added_from_a_table_is_left_of_the_mean_of_worlds(
    market: MarketData, spans: Spans, honest: list[np.ndarray]
) -> None:
    data = market.frame
    ahead = np.nan_to_num((data["close"].shift(-5) / data["close"] - 1).to_numpy()[spans.first :])
    mean = np.mean([values[:, 1] + 0.1 * ahead for values in honest], axis=0)
    with pytest.raises(SubmissionError, match="column 'x' knows outcomes it was not given"):
        check_real_outcomes(mean[:, None], market, spans.first, ["x"])


@pytest.mark.parametrize("horizon", [1, 5, 20])
def test_single_rows_that_follow_their_future_are_suspected(
    worlds: list[World], honest: list[np.ndarray], horizon: int
) -> None:
    rows = [17, 801, 1500]
    for world, values in zip(worlds, honest, strict=True):
        values[rows, 2] = world.outcomes[horizon][rows]
    assert set(rows) <= set(find_suspects(worlds, honest))


def test_a_rank_correlation_is_that_of_pandas() -> None:
    rng = np.random.default_rng(1)
    values, outcome = rng.integers(0, 9, (300, 2)).astype(float), rng.normal(size=300)
    outcome[:5] = np.nan
    found, rows = correlate(values, outcome)
    frame = pd.DataFrame(values)[5:]
    expected = [frame[at].rank().corr(pd.Series(outcome)[5:].rank()) for at in (0, 1)]
    assert rows == 295
    assert found == pytest.approx(expected)


# --- models -----------------------------------------------------------------------------------


ALONG_THE_BATCH = """
import keras


@keras.saving.register_keras_serializable()
class Beside(keras.layers.Layer):
    def call(self, x, training=False):
        return {returned}


def build_model(n_features, params):
    x = keras.Input((n_features,))
    own = keras.layers.Dense(4, activation="relu")(x)
    beside = keras.layers.Dense(2)(Beside()(x))
    joined = keras.layers.Concatenate()([own, beside])
    return keras.Model(x, keras.layers.Dense(1, activation="sigmoid")(joined))
"""
RETURNED = {
    "the-next-row": "x if training else keras.ops.roll(x, -1, axis=0)",
    "the-mean": "x - keras.ops.mean(x, axis=0, keepdims=True)",
    "all-so-far": "keras.ops.cumsum(x, axis=0) / 100",
}


@pytest.mark.parametrize("name", RETURNED)
def test_a_model_that_reads_along_the_batch_is_refused(
    run_attempt: Callable[..., Run], tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "module"
    folder.mkdir()
    (folder / "model.py").write_text(ALONG_THE_BATCH.format(returned=RETURNED[name]))
    run = run_attempt("validate", "--system", "model_structure", "--module", str(folder))
    assert (run.exit_code, run.verdict["class"]) == (3, "submission")
    assert run.verdict["reason"].startswith("look-ahead: the prediction of row ")
    assert "likely cause: a layer reads along the batch" in run.verdict["reason"]
