"""
Figures of one interval's scored rows; whatever cannot be computed is None with a reason.

Ranks are pandas' own: loading SciPy's or scikit-learn's statistics would take longer than all else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from elnigma.backtest import Backtest

Figure = tuple[float | None, str | None]

# Below this the interval would be wider than anything worth saying.
MIN_BOOTSTRAP_ROWS = 250
MIN_BLOCKS = 20


@dataclass(frozen=True, kw_only=True)
class ScoredRows:
    """
    Predictions and outcomes of the scored rows, in time order.

    :param target: Return over the horizon.
    :param score_long: Probability of a rise beyond cost.
    :param score_short: Probability of a fall beyond cost.
    :param threshold: What a move must exceed to count as one.
    """

    target: np.ndarray
    score_long: np.ndarray
    score_short: np.ndarray
    threshold: float


def compute_metrics(
    rows: ScoredRows,
    backtest: Backtest,
    *,
    horizon: int,
    bars_per_year: int,
    n_resamples: int,
    seed: int,
) -> dict[str, Figure]:
    """
    Return every metric by name: the figure, and why it is ``None`` when it is.

    :param rows: Predictions and outcomes.
    :param backtest: Positions and returns of the same rows.
    :param horizon: Rows that a target looks ahead; least length of a bootstrap block.
    :param bars_per_year: To annualise with.
    :param n_resamples: Resamples of the interval.
    :param seed: Of the resampling.
    """
    net = backtest.net
    low, high = bootstrap_sharpe(net, horizon, bars_per_year, n_resamples, seed)
    equity = np.cumprod(1 + net)
    change = np.abs(np.diff(backtest.position, prepend=0.0))
    figures: dict[str, Figure] = {
        "net_sharpe": sharpe(net, bars_per_year),
        "net_sharpe_low": low,
        "net_sharpe_high": high,
        "max_drawdown": (max_drawdown(equity), None),
        "total_return": (float(equity[-1] - 1), None),
        "turnover": (float(np.mean(change) * bars_per_year), None),
        **hit_rates(rows.score_long - rows.score_short, rows.target),
        "rank_corr": rank_correlation(rows.score_long - rows.score_short, rows.target),
        "n_test_rows": (float(len(net)), None),
    }
    for side, scores, outcome in (
        ("long", rows.score_long, rows.target > rows.threshold),
        ("short", rows.score_short, rows.target < -rows.threshold),
    ):
        figures[f"auc_{side}"] = auc(outcome, scores)
        figures[f"brier_{side}"] = (float(np.mean((scores - outcome) ** 2)), None)
    return figures


def sharpe(net: np.ndarray, bars_per_year: int) -> Figure:
    """Return the annualised Sharpe ratio."""
    spread = float(np.std(net, ddof=1))
    if spread < 1e-15:
        return None, "zero variance of returns"
    return math.sqrt(bars_per_year) * float(np.mean(net)) / spread, None


def bootstrap_sharpe(
    net: np.ndarray, horizon: int, bars_per_year: int, n_resamples: int, seed: int
) -> tuple[Figure, Figure]:
    """
    Return the 2.5th and 97.5th percentile of the Sharpe ratio over moving-block resamples.

    Blocks keep what neighbouring days share; they are at least one horizon long.
    """
    rows = len(net)
    block = min(max(horizon, math.ceil(rows ** (1 / 3))), max(rows // 10, 1))
    if rows < MIN_BOOTSTRAP_ROWS or rows // block < MIN_BLOCKS:
        missing = (None, f"too few rows for an interval ({rows}, blocks of {block})")
        return missing, missing
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, rows - block + 1, size=(n_resamples, math.ceil(rows / block)))
    order = (starts[:, :, None] + np.arange(block)).reshape(n_resamples, -1)[:, :rows]
    resampled = net[order]
    spread = resampled.std(axis=1, ddof=1)
    if not (spread > 1e-15).all():
        missing = (None, "zero variance of returns")
        return missing, missing
    ratios = math.sqrt(bars_per_year) * resampled.mean(axis=1) / spread
    low, high = np.percentile(ratios, [2.5, 97.5])
    return (float(low), None), (float(high), None)


def max_drawdown(equity: np.ndarray) -> float:
    """Return the deepest fall below the highest equity so far, as a fraction, zero or negative."""
    peak = np.maximum.accumulate(np.concatenate([[1.0], equity]))[1:]
    return float(min(np.min(equity / peak - 1), 0.0))


def hit_rates(scores: np.ndarray, target: np.ndarray) -> dict[str, Figure]:
    """Return hit rate, base rate and their difference; rows without a move are left out."""
    moved = target != 0
    names = ("hit_rate", "hit_rate_base", "hit_rate_minus_base")
    if not moved.any():
        return dict.fromkeys(names, (None, "no row has a move"))
    up = target[moved] > 0
    rate = float(np.mean(np.sign(scores[moved]) == np.sign(target[moved])))
    base = float(max(np.mean(up), 1 - np.mean(up)))
    return {
        name: (value, None) for name, value in zip(names, (rate, base, rate - base), strict=True)
    }


def auc(outcome: np.ndarray, scores: np.ndarray) -> Figure:
    """Return the area under the ROC curve."""
    if outcome.all() or not outcome.any():
        return None, "all rows have the same outcome"
    if np.ptp(scores) == 0:
        return None, "constant prediction"
    # Mann and Whitney's U, by ranks that share ties.
    positive, rows = int(outcome.sum()), len(outcome)
    ranks = pd.Series(scores).rank().to_numpy()
    wins = ranks[outcome].sum() - positive * (positive + 1) / 2
    return float(wins / (positive * (rows - positive))), None


def rank_correlation(scores: np.ndarray, target: np.ndarray) -> Figure:
    """Return Spearman's rank correlation."""
    if np.ptp(scores) == 0:
        return None, "constant prediction"
    if np.ptp(target) == 0:
        return None, "constant target"
    return float(pd.Series(scores).rank().corr(pd.Series(target).rank())), None
