import dataclasses

import numpy as np
import purgedcv
import pytest
from arch.bootstrap import MCS
from scipy.stats import skew

from touchstone_judge.bootstrap import choose_block
from touchstone_judge.shown import (
    deflated_sharpe_ratio,
    leading_p,
    probability_of_overfitting,
)
from worlds import make_panel, make_world


@pytest.mark.parametrize("trials", [2, 5, 50])
def test_a_deflated_ratio_is_that_of_another_library(trials):
    rng = np.random.default_rng(trials)
    returns = rng.standard_t(5, 1000) * 0.01 + 4e-4
    ratios = rng.normal(0, 0.03, trials)
    expected = purgedcv.deflated_sharpe_ratio(returns, trials, float(ratios.var(ddof=1)))
    assert deflated_sharpe_ratio(returns, ratios) == pytest.approx(expected, abs=2e-3)


def test_a_ratio_of_a_single_trial_or_of_nothing_is_not_deflated():
    assert deflated_sharpe_ratio(np.random.default_rng(1).normal(size=50), np.array([0.1])) is None
    assert deflated_sharpe_ratio(np.zeros(50), np.array([0.1, 0.2])) is None


@pytest.mark.parametrize("scale", [1e-160, 1e150])
def test_a_ratio_whose_moments_are_no_numbers_is_not_deflated(scale):
    returns = np.random.default_rng(1).normal(size=50) * scale
    with np.errstate(all="ignore"):
        assert deflated_sharpe_ratio(returns, np.array([0.1, 0.2])) is None


def test_a_ratio_without_an_error_is_not_deflated():
    # Of two values, where skewness · SR is 2, the standard error is 0.
    returns = np.array([0.0, 1.0] * 10 + [1.0] * 20)
    assert deflated_sharpe_ratio(-returns, np.array([0.1, 0.2])) is not None
    mean, spread = returns.mean(), returns.std(ddof=1)
    shifted = returns - mean + 2 / skew(returns) * spread
    assert deflated_sharpe_ratio(shifted, np.array([0.1, 0.2])) is None


def test_overfitting_is_as_probable_as_another_library_says():
    panel = make_world(1200, [0.0] * 8, np.random.default_rng(2))
    one = dataclasses.replace(panel, net=panel.net[:, :, 1:2])
    expected = purgedcv.probability_of_backtest_overfitting(one.active[:, 1:, 0].T, n_splits=10)
    assert probability_of_overfitting(one) == pytest.approx(expected.pbo, abs=0.02)


def test_the_best_of_two_halves_is_the_same_where_skill_is_real():
    panel = make_world(3500, [0.15] + [0.0] * 5, np.random.default_rng(3))
    assert probability_of_overfitting(panel) < 0.05


def test_one_submission_cannot_be_chosen_wrongly():
    panel = make_world(400, [0.0], np.random.default_rng(4))
    assert probability_of_overfitting(panel) is None


def test_the_leading_group_holds_the_best_and_drops_the_hopeless():
    panel = make_world(3500, [0.15, 0.0, 0.0], np.random.default_rng(5))
    found = leading_p(panel)
    assert list(found) == list(panel.names)
    assert found["s0"] == 1
    assert found["baseline"] < 0.1


def test_the_group_is_the_one_that_arch_includes():
    panel = make_world(900, [0.04, 0.0, 0.0, -0.05], np.random.default_rng(8))
    losses = -(panel.active / panel.active.std(axis=0, ddof=1)).mean(axis=2)
    block = choose_block(panel.rows, panel.longest_interval)
    expected = MCS(losses, 0.1, reps=1000, block_size=block, bootstrap="mbb", method="max", seed=0)
    expected.compute()
    included = {panel.names[i] for i in expected.included}
    assert 0 < len(included) < len(panel.names)
    assert {name for name, p in leading_p(panel).items() if p > 0.1} == included


def test_equal_series_share_their_place():
    panel = make_world(1257, [0.15], np.random.default_rng(6))
    net = np.concatenate([panel.net, panel.net[:, 1:]], axis=1)
    found = leading_p(make_panel(net, panel.market))
    assert found["s0"] == found["s1"] == 1


def test_all_lead_where_all_are_equal():
    panel = make_panel(np.zeros((300, 3, 1)), np.zeros(300))
    assert leading_p(panel) == dict.fromkeys(panel.names, 1.0)


@pytest.mark.parametrize("difference", [1e-17, 1e-12, 2e-9, 1e-6])
def test_what_is_nearly_a_copy_is_no_trouble(difference):
    panel = make_world(600, [0.1, 0.0], np.random.default_rng(7))
    copy = panel.net[:, 1:2].copy()
    copy[100] += difference
    found = leading_p(make_panel(np.concatenate([panel.net, copy], axis=1), panel.market))
    assert all(0 <= p <= 1 for p in found.values())
    assert found["s2"] > 0.1


def test_a_series_that_never_moves_is_compared_like_any_other():
    panel = make_world(600, [0.1, 0.0], np.random.default_rng(7))
    net = panel.net.copy()
    net[:, 2] = 0
    found = leading_p(make_panel(net, panel.market))
    assert all(0 <= p <= 1 for p in found.values())
