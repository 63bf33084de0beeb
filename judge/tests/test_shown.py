import dataclasses

import numpy as np
import purgedcv
import pytest

from touchstone_judge.shown import (
    confidence_set,
    deflated_sharpe_ratio,
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
    assert "s0" in confidence_set(panel)
    assert "baseline" not in confidence_set(panel)


def test_equal_series_share_their_place():
    panel = make_world(1257, [0.15], np.random.default_rng(6))
    net = np.concatenate([panel.net, panel.net[:, 1:]], axis=1)
    assert {"s0", "s1"} <= set(confidence_set(make_panel(net, panel.market)))


def test_all_lead_where_all_are_equal():
    panel = make_panel(np.zeros((300, 3, 1)), np.zeros(300))
    assert confidence_set(panel) == panel.names
