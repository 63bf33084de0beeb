"""Positions, returns and metrics, against cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from elnigma.backtest import Backtest, Scale, fit_scale, run_backtest
from elnigma.config import build_config
from elnigma.errors import ConfigError
from elnigma.metrics import (
    ScoredRows,
    auc,
    bootstrap_sharpe,
    compute_metrics,
    hit_rates,
    max_drawdown,
    rank_correlation,
    sharpe,
)
from elnigma.outputs import split_metrics
from elnigma.split import build_split


def test_a_position_is_the_clipped_score_in_units_of_validation_spread() -> None:
    scores = np.array([1.0, 3.0, 9.0, -9.0])
    done = run_backtest(scores, np.zeros(4), Scale(mean=1.0, std=2.0), 1, 0.0)
    assert done.position.tolist() == [0.0, 0.5, 1.0, -1.0]


def test_overlapping_sleeves_average_the_last_opinions() -> None:
    scores = np.array([2.0, 2.0, 2.0, -2.0])
    done = run_backtest(scores, np.zeros(4), Scale(mean=0.0, std=1.0), 2, 0.0)
    assert done.position.tolist() == [0.5, 1.0, 1.0, 0.0]


def test_every_change_of_position_costs() -> None:
    scores = np.array([2.0, -2.0])
    done = run_backtest(scores, np.array([0.01, 0.02]), Scale(mean=0.0, std=1.0), 1, 1e-4)
    assert done.gross.tolist() == [0.01, -0.02]
    assert done.net == pytest.approx([0.01 - 1e-4, -0.02 - 2e-4])


def test_one_opinion_throughout_is_held_as_it_is() -> None:
    scale = fit_scale(np.full(10, 0.3))
    done = run_backtest(np.full(3, 0.3), np.full(3, 0.01), scale, 1, 0.0)
    assert done.position.tolist() == [1.0, 1.0, 1.0]


def test_the_sharpe_ratio_is_annualised_with_one_degree_of_freedom() -> None:
    net = np.array([0.01, 0.03])
    assert sharpe(net, 252)[0] == pytest.approx(math.sqrt(252) * 0.02 / math.sqrt(2e-4))
    assert sharpe(np.full(5, 0.01), 252) == (None, "zero variance of returns")


def test_drawdown_counts_from_the_first_day() -> None:
    assert max_drawdown(np.array([0.9, 1.2, 0.6, 1.3])) == pytest.approx(-0.5)
    assert max_drawdown(np.array([0.9, 0.95])) == pytest.approx(-0.1)
    assert max_drawdown(np.array([1.1, 1.2])) == 0.0


def test_hit_rate_stands_beside_the_rate_of_the_commoner_sign() -> None:
    target = np.array([0.1, 0.2, -0.1, 0.0, 0.3])
    figures = hit_rates(np.array([1.0, -1.0, -1.0, 1.0, 1.0]), target)
    assert figures["hit_rate"][0] == 0.75  # the row without a move is left out
    assert figures["hit_rate_base"][0] == 0.75
    assert figures["hit_rate_minus_base"][0] == 0.0


def test_auc_agrees_with_scikit_learn_ties_included() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    outcome = rng.random(200) > 0.4
    scores = np.round(rng.random(200) + 0.3 * outcome, 1)
    assert auc(outcome, scores)[0] == pytest.approx(roc_auc_score(outcome, scores), abs=1e-12)
    assert auc(np.ones(5, bool), np.arange(5.0)) == (None, "all rows have the same outcome")
    assert auc(outcome, np.ones(200)) == (None, "constant prediction")


def test_rank_correlation_agrees_with_scipy() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(1)
    left = np.round(rng.random(100), 1)
    right = left + rng.random(100)
    expected = spearmanr(left, right).statistic
    assert rank_correlation(left, right)[0] == pytest.approx(expected, abs=1e-12)


def test_the_interval_holds_the_figure_and_repeats_with_its_seed() -> None:
    net = np.random.default_rng(2).normal(5e-4, 0.01, 1000)
    (low, _), (high, _) = bootstrap_sharpe(net, 5, 252, 500, seed=1)
    figure, _ = sharpe(net, 252)
    assert low is not None
    assert high is not None
    assert figure is not None
    assert low < figure < high
    assert bootstrap_sharpe(net, 5, 252, 500, seed=1) == ((low, None), (high, None))
    assert bootstrap_sharpe(net, 5, 252, 500, seed=2) != ((low, None), (high, None))


def test_the_interval_covers_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    truth = math.sqrt(252) * 0.05
    inside = 0
    for seed in range(60):
        net = rng.normal(0.05, 1.0, 500)
        (low, _), (high, _) = bootstrap_sharpe(net, 5, 252, 200, seed=seed)
        assert low is not None
        assert high is not None
        inside += low <= truth <= high
    assert 49 <= inside <= 60


def test_too_few_rows_have_no_interval_but_a_reason() -> None:
    (low, reason), _ = bootstrap_sharpe(np.random.default_rng(4).random(100), 5, 252, 100, seed=0)
    assert low is None
    assert reason is not None
    assert "too few rows" in reason


def test_what_cannot_be_computed_is_null_with_a_note_and_never_nan() -> None:
    rows = ScoredRows(
        target=np.full(300, 0.01),
        score_long=np.full(300, 0.5),
        score_short=np.full(300, 0.5),
        threshold=1e-4,
    )
    flat = Backtest(position=np.zeros(300), gross=np.zeros(300), net=np.zeros(300))
    figures = compute_metrics(rows, flat, horizon=1, bars_per_year=252, n_resamples=100, seed=0)
    metrics, notes = split_metrics(figures)
    assert metrics["net_sharpe"] is None
    assert notes["net_sharpe"] == "zero variance of returns"
    assert metrics["auc_long"] is None
    assert metrics["rank_corr"] is None
    assert metrics["brier_long"] == 0.25
    assert set(notes) == {name for name, value in metrics.items() if value is None}


def test_a_number_that_is_not_finite_becomes_null() -> None:
    metrics, notes = split_metrics({"x": (math.nan, None), "y": (math.inf, "too large")})
    assert metrics == {"x": None, "y": None}
    assert notes == {"x": "not a finite number", "y": "too large"}


def _make_target(rows: int = 5000, horizon: int = 5) -> pd.Series:
    index = pd.bdate_range("1999-01-04", periods=rows, tz="UTC")
    target = pd.Series(0.0, index=index)
    target.iloc[-horizon:] = np.nan
    return target


def test_no_target_reaches_over_a_border() -> None:
    """The last training row's target ends before the first validation row, and so on."""
    target = _make_target()
    split = build_split(target, np.ones(5000, bool), 5, build_config("default.toml", [], []))
    assert split.train.max() + 5 < split.validation.min()
    assert split.validation.max() + 5 < split.test.min()
    assert str(target.index[split.test.min()].date()) == "2014-01-01"
    assert split.test.max() == 5000 - 5 - 1


def test_too_little_data_is_refused_with_the_figures() -> None:
    target = _make_target(rows=3900)
    with pytest.raises(ConfigError, match=r"\d+ test rows, at least 60 are needed"):
        build_split(target, np.ones(3900, bool), 5, build_config("default.toml", [], []))
