"""Figures of a training, recomputed from its predictions; and what is not judged."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import by_hand
from touchstone_judge import VERSION
from trainings import RULES, build_result, find_prices, write_predictions

PRICES = find_prices()


class Left:
    """
    What a training has left, and the judge's answer to it.

    :param folder: Where it is.
    :param interval: Its prediction interval.
    """

    def __init__(self, folder: Path, interval: int) -> None:
        self.folder = folder
        self.interval = interval
        self.predictions = folder / "predictions.csv"
        self.result = json.loads((folder / "result.json").read_text())

    def run(self, **changes) -> subprocess.CompletedProcess[bytes]:
        (self.folder / "result.json").write_text(json.dumps(self.result))
        question = {
            "rules": RULES,
            "interval": self.interval,
            "result": str(self.folder / "result.json"),
            "predictions": str(self.predictions),
            **changes,
        }
        return subprocess.run(
            [sys.executable, "-I", "-m", "touchstone_judge", "recompute"],
            input=json.dumps(question).encode(),
            capture_output=True,
            check=False,
            env={"OPENBLAS_NUM_THREADS": "1"},
        )

    def ask(self, **changes) -> dict:
        done = self.run(**changes)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def change_lines(self, change) -> None:
        """Replace the lines of the predictions, without the header, by what ``change`` returns."""
        header, *lines = self.predictions.read_text().splitlines()
        self.predictions.write_text("\n".join([header, *change(lines)]) + "\n")


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    folders = {}
    for interval in (1, 5, 20):
        folder = tmp_path_factory.mktemp(f"i{interval}")
        predictions = write_predictions(folder, PRICES, interval, seed=interval)
        result = build_result(predictions, PRICES, interval)
        (folder / "result.json").write_text(json.dumps(result))
        folders[interval] = folder
    return folders


@pytest.fixture
def leave(honest, tmp_path):
    def leave(interval=5):
        folder = tmp_path / f"i{interval}"
        shutil.copytree(honest[interval], folder)
        return Left(folder, interval)

    return leave


@pytest.fixture
def left(leave):
    return leave()


def is_close(one, other):
    return abs(one - other) <= 1e-9 * max(1.0, abs(other))


@pytest.mark.parametrize("interval", [1, 5, 20])
def test_every_figure_is_that_of_a_script_that_imports_nothing_of_ours(leave, interval):
    left = leave(interval)
    told = left.ask()
    script = Path(by_hand.__file__)
    # In a process without our packages on any path.
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            str(script),
            str(PRICES),
            str(left.predictions),
            str(interval),
        ],
        capture_output=True,
        check=True,
    )
    found = json.loads(done.stdout)

    assert told["judged"] is True
    assert told["metrics"].keys() == found["metrics"].keys()
    resampled = {"net_sharpe_low", "net_sharpe_high"}
    for name in found["metrics"].keys() - resampled:
        assert is_close(told["metrics"][name], found["metrics"][name]), name
    width = told["metrics"]["net_sharpe_high"] - told["metrics"]["net_sharpe_low"]
    for name in resampled:
        assert abs(told["metrics"][name] - found["metrics"][name]) < 0.15 * width, name
    assert told["time"] == found["time"]
    assert is_close(told["beta"], found["beta"])
    assert is_close(told["active_sharpe"], found["active_sharpe"])
    for name in ("net", "market", "score"):
        assert all(map(is_close, told[name], found[name])), name


def test_the_judges_own_trainer_code_gives_the_same(left):
    """The reference trainer's own functions, which are other code with the same definitions."""
    sources = Path(__file__).parents[2] / "include/elnigma/src"
    sys.path.insert(0, str(sources))
    try:
        from elnigma.backtest import fit_scale, run_backtest
        from elnigma.metrics import ScoredRows, compute_metrics
    finally:
        sys.path.remove(str(sources))
    import numpy as np

    told = left.ask()
    rows = [line.split(",") for line in left.predictions.read_text().splitlines()[1:]]
    both = {
        part: np.array([[float(a), float(b)] for _, name, a, b in rows if name == part])
        for part in ("validation", "test")
    }
    days, close = by_hand.read_closes(PRICES)
    _, _, test = by_hand.find_rows(days, 5)
    target = np.array([close[row + 5] / close[row] - 1 for row in test])
    moves = np.array([close[row + 1] / close[row] - 1 for row in test])
    early, late = (both[part][:, 0] - both[part][:, 1] for part in ("validation", "test"))
    backtest = run_backtest(late, moves, fit_scale(early), 5, 1e-4)
    scored = ScoredRows(
        target=target, score_long=both["test"][:, 0], score_short=both["test"][:, 1], threshold=1e-4
    )
    figures = compute_metrics(
        scored, backtest, horizon=5, bars_per_year=252, n_resamples=1000, seed=3
    )
    left.result["metrics"] = {name: value for name, (value, _) in figures.items()}

    assert left.ask()["judged"] is True
    assert all(map(is_close, told["net"], backtest.net))


def test_the_same_predictions_get_the_same_answer(left):
    first, second = left.run(), left.run()

    assert hashlib.sha256(first.stdout).digest() == hashlib.sha256(second.stdout).digest()


def test_an_image_of_contract_1_is_not_judged(left):
    left.result["contract"] = 1

    assert left.ask() == {
        "judged": False,
        "judge": VERSION,
        "reason": "the image speaks contract 1, whose predictions cannot be recomputed",
    }


FORGED = {
    "12 out of the air": ("net_sharpe", 12.0),
    "a whole number": ("net_sharpe", 12),
    "a little more": ("total_return", lambda value: value + 1e-8),
    "none where there is one": ("auc_long", None),
    "a text": ("hit_rate", "0.9"),
    "a truth": ("hit_rate", True),
    "an endless number": ("turnover", 10**400),
    "an interval far off": ("net_sharpe_low", lambda value: value + 2),
}


@pytest.mark.parametrize(("name", "value"), FORGED.values(), ids=FORGED)
def test_a_figure_that_the_predictions_do_not_give_is_named_with_both_values(left, name, value):
    true = left.result["metrics"][name]
    left.result["metrics"][name] = value(true) if callable(value) else value

    told = left.ask()

    assert told["judged"] is False
    assert told["reason"].startswith(f"{name}: result.json says ")
    shown = float(told["reason"].rpartition("give ")[2])
    assert math.isclose(shown, true, rel_tol=0.2)


def test_a_figure_that_differs_by_rounding_only_is_judged(left):
    left.result["metrics"]["net_sharpe"] *= 1 + 1e-12
    left.result["metrics"]["max_drawdown"] -= 5e-10

    assert left.ask()["judged"] is True


def test_a_figure_that_the_judge_does_not_know_is_none_of_its_own(left):
    left.result["metrics"]["beauty"] = 12.0
    del left.result["metrics"]["brier_short"]

    told = left.ask()

    assert told["judged"] is True
    assert "beauty" not in told["metrics"]
    assert told["metrics"]["brier_short"] is not None


def test_a_training_with_few_resamples_is_judged_by_the_judges_own(left):
    left.result["params"]["backtest.n_resamples"] = 200
    left.result["metrics"]["net_sharpe_low"] -= 2

    told = left.ask()

    assert told["judged"] is True
    assert told["metrics"]["net_sharpe_low"] > left.result["metrics"]["net_sharpe_low"] + 1


def test_a_scale_that_is_not_of_the_validation_rows_is_a_deviation(left):
    left.result["scale"]["mean"] += 1e-6

    assert left.ask()["reason"].startswith("scale.mean: ")


OTHER = {
    "split.test_from": ("params", "split.test_from", "2017-01-01"),
    "split.test_to": ("params", "split.test_to", "2015-01-01"),
    "split.validation_from": ("params", "split.validation_from", "2012-01-01"),
    "backtest.cost_bps": ("params", "backtest.cost_bps", 0.0),
    "backtest.bars_per_year": ("params", "backtest.bars_per_year", 25200),
    "data.last": ("data", "last", "2014-05-01"),
    "data.sha256": ("data", "sha256", "0" * 64),
}


@pytest.mark.parametrize(("table", "name", "value"), OTHER.values(), ids=OTHER)
def test_other_rows_costs_or_data_are_not_judged(left, table, name, value):
    left.result[table][name] = value
    shown = name if table == "params" else f"{table}.{name}"

    told = left.ask()

    assert told["judged"] is False
    assert told["reason"].startswith("other ")
    assert f"({shown} is {value}, the rules say " in told["reason"]


def test_a_setting_that_is_not_told_is_not_taken_as_the_rules(left):
    del left.result["params"]["split.test_from"]

    assert left.ask()["reason"] == "other rows (split.test_from is None, the rules say 2014-01-01)"


def test_training_rows_whose_outcome_reaches_into_the_validation_are_not_judged(left):
    left.result["split"]["train"]["last"] = "2010-12-31T00:00:00+00:00"

    assert left.ask()["reason"].startswith("other rows (split.train.last is 2010-12-31")


ROWS = {
    "missing": (lambda lines: lines[:800] + lines[803:], "is missing, and 2 more"),
    "one missing": (lambda lines: lines[:-1], "is missing)"),
    "doubled": (lambda lines: [*lines[:9], lines[8], *lines[9:]], "is there twice"),
    "foreign": (
        lambda lines: ["2009-01-02T00:00:00+00:00,validation,0.5,0.5", *lines],
        "2009-01-02 is none of them",
    ),
    "unordered": (lambda lines: [lines[1], lines[0], *lines[2:]], "2011-01-04 stands where 2011-"),
    "of the other part": (
        lambda lines: [*lines[:-1], lines[-1].replace("test", "validation")],
        "is a test row, not a validation row",
    ),
    "between two days": (
        lambda lines: [lines[0].replace("T00:00", "T12:00"), *lines[1:]],
        "is no row of the market data",
    ),
    "none": (lambda lines: [], "2011-01-03 is missing"),
}


@pytest.mark.parametrize(("change", "reason"), ROWS.values(), ids=ROWS)
def test_other_rows_in_the_predictions_are_named(left, change, reason):
    left.change_lines(change)

    told = left.ask()

    assert told["judged"] is False
    assert reason in told["reason"]


def test_a_row_may_be_written_in_another_zone(left):
    left.change_lines(
        lambda lines: [lines[0].replace("T00:00:00+00:00", "T02:00:00+02:00"), *lines[1:]]
    )

    assert left.ask()["judged"] is True


CELLS = {
    "nan": "nan",
    "infinity": "inf",
    "beyond a float": "1e999",
    "more than 1": "1.5",
    "negative": "-0.1",
    "empty": "",
    "underscores": "0_5",
    "hexadecimal": "0x1p-1",
    "blanks": " 0.5 ",
    "digits of another script": "\u0660.\u0665",
    "long": "0." + "5" * 190,
    "quoted line feed": '"0.5\n"',
    "formula": "=1+1",
    "a field more": "0.5,0.5",
}


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_what_is_no_probability_is_not_judged(left, cell):
    left.change_lines(lambda lines: [f"{lines[0].rpartition(',')[0]},{cell}", *lines[1:]])

    told = left.ask()

    assert told["judged"] is False
    assert told["reason"].startswith("predictions.csv: ")
    assert told["reason"].isascii()
    assert told["reason"].isprintable()
    assert len(told["reason"]) <= 400


FILES = {
    "empty": b"",
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(300),
    "another header": b"time,target,score_long,score_short\n",
    "a quote without end": b'time,part,score_long,score_short\n"' + b"x" * 300_000,
    "nothing but commas": b"time,part,score_long,score_short\n" + b"," * 100_000,
    "nothing but lines": b"time,part,score_long,score_short\n" + b"\n" * 100_000,
    "too large": b"x" * (8 * 1024**2 + 1),
    "a null": b"time,part,score_long,score_short\n\x00\n",
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_predictions_that_are_none_are_not_judged(left, content):
    left.predictions.write_bytes(content)

    told = left.ask()

    assert told["judged"] is False
    assert told["reason"].startswith("predictions.csv: ")


def test_a_training_without_predictions_is_not_judged(left):
    assert left.ask(predictions=None)["reason"] == "predictions.csv: the training has left none"


RESULTS = {
    "no JSON": b"{",
    "a list": b"[]",
    "not a number": b'{"contract": 2, "x": NaN}',
    "nested": b"[" * 100_000,
    "digits": b'{"contract": ' + b"9" * 5000 + b"}",
    "large": b" " * (1024**2 + 1),
    "of another contract": b'{"contract": 3}',
    "without anything": b'{"contract": 2}',
}


@pytest.mark.parametrize("content", RESULTS.values(), ids=RESULTS)
def test_a_result_that_makes_no_sense_is_not_judged(left, tmp_path, content):
    path = tmp_path / "odd.json"
    path.write_bytes(content)

    told = left.ask(result=str(path))

    assert told["judged"] is False
    assert told["reason"].startswith("result.json: ")


def test_a_constant_model_is_judged_and_its_undefined_figures_say_why(left):
    left.change_lines(lambda lines: [f"{line.rsplit(',', 2)[0]},0.75,0.25" for line in lines])
    left.result["scale"] = {"mean": 0.5, "std": 0.0}
    left.result["metrics"] = {"net_sharpe": None}
    reason = left.ask()["reason"]
    left.result["metrics"] = {"net_sharpe": float(reason.rpartition("give ")[2])}

    told = left.ask()

    assert told["judged"] is True
    assert told["metrics"]["rank_corr"] is None
    assert told["notes"]["rank_corr"] == "constant prediction"
    assert told["beta"] == pytest.approx(1, abs=1e-3), "it holds the index"


def test_a_judge_without_the_rules_data_says_that_it_cannot_work(left):
    rules = copy.deepcopy(RULES) | {"data_sha256": "0" * 64}

    done = left.run(rules=rules)

    assert done.returncode == 2
    assert b"this judge has" in done.stderr
    assert done.stdout == b""


@pytest.mark.parametrize(
    "change",
    [
        {"version": 99},
        {"validation_from": "2015-01-01"},
        {"cost_bps": "much"},
        {"test_to": "2014-01-31"},
    ],
    ids=str,
)
def test_rules_that_make_no_sense_are_the_judges_fault(left, change):
    done = left.run(rules=RULES | change)

    assert (done.returncode, done.stdout) == (2, b"")
    assert len(done.stderr.splitlines()) == 1


def test_rules_may_end_before_the_data(left):
    told = left.ask(rules=RULES | {"test_to": "2016-12-31"})

    assert told["reason"] == "other rows (split.test_to is , the rules say 2016-12-31)"
