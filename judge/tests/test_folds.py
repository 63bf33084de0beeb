"""Rows of several folds: each is drawn and counted once, and no block reaches over a seam."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from test_judging import RNG, ROWS, build_question, draw, encode
from touchstone_judge.bootstrap import choose_block, draw_rows, draw_weights, find_starts
from touchstone_judge.comparison import compare
from touchstone_judge.judging import answer
from touchstone_judge.metrics import sharpe, sharpe_interval
from touchstone_judge.panel import PanelError
from touchstone_judge.pooling import answer as pool
from touchstone_judge.similarity import gaussianise
from touchstone_judge.verdict import find_too_few
from worlds import make_world

FOLDS = (500, 400, 600)


@settings(max_examples=40, deadline=None)
@given(
    folds=st.lists(st.integers(20, 200), min_size=1, max_size=6),
    block=st.integers(1, 20),
    seed=st.integers(0, 2**32),
)
def test_no_block_reaches_from_one_fold_into_the_next(folds, block, seed):
    rows = sum(folds)
    of_row = np.repeat(np.arange(len(folds)), folds)
    (drawn,) = draw_rows(rows, block, 5, seed, at_once=5, folds=folds)
    assert drawn.shape == (5, rows)
    for begin in range(0, rows, block):
        part = drawn[:, begin : begin + block]
        assert (of_row[part] == of_row[part[:, :1]]).all()
        assert (np.diff(part, axis=1) == 1).all()


def test_a_block_may_begin_wherever_it_ends_in_the_same_fold():
    assert find_starts((4, 3), 3).tolist() == [0, 1, 4]
    assert find_starts((5,), 2).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("folds", [(), (300,)])
def test_one_fold_is_drawn_as_none(folds):
    plain = np.concatenate(list(draw_weights(300, 10, 20, 5)))
    assert (np.concatenate(list(draw_weights(300, 10, 20, 5, folds))) == plain).all()


def test_rows_of_folds_that_do_not_add_up_are_no_panel():
    panel = make_world(260, [0.0], np.random.default_rng(1))
    assert replace(panel, folds=(100, 160)).folds == (100, 160)
    for folds in ((100, 100), (260, 0), (300, -40)):
        with pytest.raises(PanelError, match="folds of"):
            replace(panel, folds=folds)


def test_the_estimate_is_of_all_rows_and_only_its_spread_knows_seams():
    panel = make_world(1500, [0.0, 0.05], np.random.default_rng(1))
    plain, folded = compare(panel, seed=3), compare(replace(panel, folds=FOLDS), seed=3)
    for one, other in zip(plain, folded, strict=True):
        assert one.difference == other.difference
        assert one.standard_error != other.standard_error
        assert one.standard_error == pytest.approx(other.standard_error, rel=0.2)


def test_a_fold_that_holds_no_block_is_too_few_rows():
    assert find_too_few(1500, 5, FOLDS) is None
    assert find_too_few(1500, 70, (50, 1450)) == (
        "too few rows: a fold has 50, and a block for an interval of 70 rows has 70"
    )


# --- verdicts ------------------------------------------------------------------------------------


def test_an_edge_is_found_over_folds_and_counts_all_of_their_rows():
    found = answer(build_question({"skilled": draw(2, 0.003), "lucky": draw(3)}, folds=FOLDS))

    assert found["verdicts"]["skilled"]["outcome"] == "better"
    assert found["verdicts"]["lucky"]["outcome"] == "not distinguishable"
    plain = answer(build_question({"skilled": draw(2, 0.003), "lucky": draw(3)}))
    assert found["scores"] == plain["scores"]
    edges = [each["verdicts"]["skilled"]["edge"]["difference"] for each in (found, plain)]
    assert edges[0] == edges[1]


@pytest.mark.parametrize("folds", [[500, 400], [ROWS, 0], [-1, ROWS + 1]])
def test_folds_that_are_not_the_rows_are_refused(folds):
    with pytest.raises(ValueError, match="folds of"):
        answer(build_question({"a": draw(2)}, folds=folds))


def test_what_one_model_says_is_ranked_among_what_it_says():
    """The second fold's model speaks on a scale of its own, and is as like as the first."""
    base = RNG.normal(size=(ROWS, 2))
    scaled = base.copy()
    scaled[: FOLDS[0]] = scaled[: FOLDS[0]] * 100 + 50
    series = {"copy": draw(2), "other": draw(3)}
    question = build_question(
        series,
        folds=FOLDS,
        baseline_prediction=encode(base),
        target=encode(RNG.normal(size=(ROWS, 2))),
    )
    for each, said in zip(question["series"], (scaled, RNG.normal(size=(ROWS, 2))), strict=True):
        each["prediction"] = encode(said)

    folded = answer(question)["beside"]
    plain = answer({**question, "folds": []})["beside"]

    assert folded["copy"]["similarity"]["value"] == pytest.approx(1)
    assert plain["copy"]["similarity"]["value"] < 0.9
    assert abs(folded["other"]["similarity"]["value"]) < 0.1


def test_a_fold_whose_prediction_is_a_constant_ranks_nothing():
    base = RNG.normal(size=(ROWS, 2))
    flat = base.copy()
    flat[: FOLDS[0]] = 0.5
    question = build_question({"a": draw(2)}, folds=FOLDS, baseline_prediction=encode(base))
    question["series"][0]["prediction"] = encode(flat)

    found = answer(question)["beside"]["a"]["similarity"]

    assert found == {"value": None, "note": "interval 1: its prediction is a constant"}
    assert gaussianise(flat[:, 0]) is not None


# --- the figures of all folds together -----------------------------------------------------------


def build_folds(sizes=(300, 250), begin=2005):
    rng = np.random.default_rng(5)
    return [
        {
            "time": [
                str(np.datetime64(f"{begin + 3 * number}-01-01") + np.timedelta64(day, "D"))
                for day in range(size)
            ],
            **{name: rng.normal(0, 0.01, size).tolist() for name in ("net", "score", "target")},
        }
        for number, size in enumerate(sizes)
    ]


def ask(folds, **others):
    return pool({"interval": 5, "bars_per_year": 252, "resamples": 200, "folds": folds, **others})


def test_each_row_of_all_folds_is_scored_once():
    folds = build_folds()
    net = np.concatenate([fold["net"] for fold in folds])

    found = ask(folds)["metrics"]

    assert found["n_test_rows"] == 550
    assert found["net_sharpe"] == sharpe(net, 252).value
    low, high = sharpe_interval(net, 5, 252, 200, (300, 250))
    assert (found["net_sharpe_low"], found["net_sharpe_high"]) == (low.value, high.value)
    assert found["total_return"] == pytest.approx(float(np.prod(1 + net)) - 1)
    assert found["net_sharpe_low"] < found["net_sharpe"] < found["net_sharpe_high"]
    # What one model says is not ranked among what another says.
    assert not {"rank_corr", "auc_long"} & found.keys()


def test_a_single_fold_has_the_figures_that_it_had():
    (fold,) = build_folds((400,))
    net = np.array(fold["net"])

    found = ask([fold])["metrics"]

    low, high = sharpe_interval(net, 5, 252, 200)
    assert (found["net_sharpe_low"], found["net_sharpe_high"]) == (low.value, high.value)


def test_a_fold_shorter_than_a_block_has_no_interval_and_says_why():
    found = ask(build_folds((900, 60)), interval=80)

    assert choose_block(960, 80) == 80
    assert found["metrics"]["net_sharpe_low"] is None
    assert found["notes"]["net_sharpe_low"] == "too few rows for an interval (60, blocks of 80)"
    assert found["metrics"]["net_sharpe"] is not None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda folds: folds.reverse(), "not in time order"),
        (lambda folds: folds.append(folds[1]), "not in time order, or some are in two"),
        (lambda folds: folds[0]["net"].pop(), "net: is not as long"),
        (lambda folds: folds[1].update(target=[]), "target: is not as long"),
        (lambda folds: folds[1]["score"].__setitem__(0, float("inf")), "score: is not finite"),
        (lambda folds: folds.clear(), "a fold has no rows"),
        (lambda folds: folds.append({"time": []}), "a fold has no rows"),
    ],
)
def test_folds_that_make_no_sense_are_refused(change, told):
    folds = build_folds()
    change(folds)
    with pytest.raises(ValueError, match=told):
        ask(folds)


def test_the_program_answers_in_json():
    question = {"interval": 5, "bars_per_year": 252, "resamples": 100, "folds": build_folds()}
    done = subprocess.run(
        [sys.executable, "-m", "touchstone_judge", "pool"],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["n_test_rows"] == 550
    broken = subprocess.run(
        [sys.executable, "-m", "touchstone_judge", "pool"],
        input="{}",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (broken.returncode, "KeyError" in broken.stderr) == (2, True)
