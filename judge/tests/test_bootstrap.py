import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from touchstone_judge.bootstrap import (
    choose_block,
    draw_weights,
    interval_of_score,
    resample_scores,
)
from touchstone_judge.panel import Panel, sharpe_ratios, take_out_market
from worlds import make_panel, make_world


@pytest.mark.parametrize(
    ("rows", "longest", "block"),
    [(1257, 20, 20), (1257, 5, 11), (3500, 1, 16), (1000, 1, 10), (100, 60, 10), (5, 3, 1)],
)
def test_a_block_holds_an_interval_and_is_a_tenth_of_the_rows_at_most(rows, longest, block):
    assert choose_block(rows, longest) == block


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(2, 400), longest=st.integers(1, 50), seed=st.integers(0, 2**32))
def test_every_resample_has_as_many_rows_as_there_are(rows, longest, seed):
    weights = np.concatenate(list(draw_weights(rows, choose_block(rows, longest), 7, seed)))
    assert weights.shape == (7, rows)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    np.testing.assert_allclose(weights * rows, np.round(weights * rows), atol=1e-9)


def test_the_same_seed_draws_the_same_however_many_are_asked_for():
    few = np.concatenate(list(draw_weights(300, 10, 20, 5)))
    again = np.concatenate(list(draw_weights(300, 10, 20, 5)))
    other = np.concatenate(list(draw_weights(300, 10, 20, 6)))
    assert (few == again).all()
    assert (few != other).any()


def test_scores_are_those_of_the_rows_drawn():
    """The same as putting the rows together and computing each ratio by its definition."""
    panel = make_world(260, [0.0, 0.05], np.random.default_rng(1))
    block = choose_block(panel.rows, panel.longest_interval)
    scores = resample_scores(panel, resamples=30, seed=9)
    weights = np.concatenate(list(draw_weights(panel.rows, block, 30, 9)))
    for line, found in zip(weights, scores, strict=True):
        drawn = np.repeat(np.arange(panel.rows), np.round(line * panel.rows).astype(int))
        active = take_out_market(panel.net[drawn], panel.market[drawn])
        expected = sharpe_ratios(active, panel.bars_per_year).mean(axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_blocks_are_as_spread_as_archs():
    """The same resampling as the library's, up to its random numbers."""
    from arch.bootstrap import MovingBlockBootstrap

    panel = make_world(1000, [], np.random.default_rng(2))
    panel = dataclasses.replace(panel, market=np.zeros(panel.rows))
    ours = resample_scores(panel, resamples=4000, seed=1)[:, 0]
    theirs = MovingBlockBootstrap(20, panel.active[:, 0, :], seed=2).apply(
        lambda returns: sharpe_ratios(returns, 252).mean(keepdims=True), 4000
    )[:, 0]
    assert ours.std() == pytest.approx(theirs.std(), rel=0.05)
    assert ours.mean() == pytest.approx(theirs.mean(), abs=4 * ours.std() / np.sqrt(4000))


def test_small_and_large_returns_are_resampled_alike():
    panel = make_world(300, [0.0], np.random.default_rng(3))
    tiny = Panel(
        names=panel.names,
        net=panel.net * 1e-6,
        market=panel.market * 1e-6,
        longest_interval=20,
        bars_per_year=252,
    )
    np.testing.assert_allclose(
        resample_scores(tiny, resamples=50, seed=1),
        resample_scores(panel, resamples=50, seed=1),
        rtol=1e-6,
    )


def test_who_traded_on_one_day_alone_has_finite_scores():
    net = np.zeros((300, 2, 1))
    net[7, 1, 0] = 0.05
    scores = resample_scores(make_panel(net, np.zeros(300)), resamples=500, seed=1)
    assert np.isfinite(scores).all()
    assert (scores[:, 0] == 0).all()
    assert (scores[:, 1] == 0).any(), "dates without that day earn nothing"


def test_the_interval_lies_around_the_score():
    panel = make_world(1257, [0.08], np.random.default_rng(4))
    low, high = interval_of_score(panel, resamples=400, seed=1)
    assert (low < panel.scores).all()
    assert (panel.scores < high).all()
