import numpy as np
import pytest

from touchstone_judge.panel import Panel, PanelError, sharpe_ratios, take_out_market
from worlds import make_panel, make_world


def test_beta_is_the_slope_of_least_squares():
    rng = np.random.default_rng(1)
    market = rng.normal(3e-4, 0.01, 500)
    net = 0.7 * market[:, None] + rng.normal(1e-4, 0.005, (500, 3))
    residual = take_out_market(net, market)
    for k in range(3):
        slope, _ = np.polyfit(market, net[:, k], 1)
        np.testing.assert_allclose(residual[:, k], net[:, k] - slope * market, atol=1e-15)


def test_who_holds_the_market_earns_nothing_beyond_it():
    market = np.random.default_rng(2).normal(5e-4, 0.01, 300)
    residual = take_out_market(np.stack([market, -0.3 * market, 0 * market], axis=1), market)
    assert (residual == 0).all()
    assert (sharpe_ratios(residual, 252) == 0).all()


def test_a_market_that_stands_still_takes_nothing_out():
    net = np.random.default_rng(3).normal(size=(50, 2))
    assert (take_out_market(net, np.zeros(50)) == net).all()


def test_a_steady_gain_beyond_the_market_stays_in():
    market = np.random.default_rng(4).normal(0, 0.01, 1000)
    noise = np.random.default_rng(5).normal(0, 0.002, 1000)
    active = take_out_market((2e-3 + market + noise)[:, None], market)
    assert active.mean() == pytest.approx(2e-3, rel=0.1)


def test_a_sharpe_ratio_is_annual_and_unbiased_in_its_spread():
    returns = np.array([[0.01], [0.03], [-0.02], [0.01]])
    expected = np.sqrt(252) * returns.mean() / returns.std(ddof=1)
    assert sharpe_ratios(returns, 252)[0] == pytest.approx(expected)


def test_the_score_is_the_mean_over_the_intervals():
    panel = make_world(300, [0.0], np.random.default_rng(6))
    by_interval = sharpe_ratios(panel.active, 252)
    np.testing.assert_allclose(panel.scores, by_interval.mean(axis=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ("a", "a")}, "net has 2 series and 1 names"),
        ({"names": ("a",)}, "net has 2 series and 1 names"),
        ({"net": np.zeros((10, 2))}, "net has 2 dimensions, not rows, series, intervals"),
        ({"net": np.zeros((10, 2, 0))}, "net needs a baseline and an interval at least"),
        ({"net": np.full((10, 2, 1), np.nan)}, "a: a net return is not finite"),
        ({"market": np.zeros(9)}, r"market has shape \(9,\), net has 10 rows"),
        ({"market": np.full(10, np.inf)}, "market: a return is not finite"),
        ({"net": np.zeros((1, 2, 1)), "market": np.zeros(1)}, "1 rows have no spread"),
        ({"longest_interval": 0}, "the longest interval and the bars a year are positive"),
        ({"bars_per_year": float("nan")}, "the longest interval and the bars a year are positive"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, message):
    fields = {
        "names": ("a", "b"),
        "net": np.zeros((10, 2, 1)),
        "market": np.zeros(10),
        "longest_interval": 1,
        "bars_per_year": 252.0,
    }
    with pytest.raises(PanelError, match=message):
        Panel(**{**fields, **change})


def test_one_infinite_value_among_many_is_named():
    net = np.zeros((10, 3, 1))
    net[4, 2, 0] = np.inf
    with pytest.raises(PanelError, match="s1: a net return is not finite"):
        make_panel(net, np.zeros(10))
