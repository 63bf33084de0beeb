"""Figures of one training's judged rows; what cannot be computed is ``None``, with a reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from touchstone_judge.backtest import Returns
from touchstone_judge.bootstrap import choose_block, draw_weights
from touchstone_judge.panel import FloatArray, sharpe_ratios, take_out_market

RESAMPLED: Final = frozenset({"net_sharpe_low", "net_sharpe_high"})
"""Figures that depend on random draws: two right ones differ."""

MIN_ROWS: Final = 250
MIN_BLOCKS: Final = 20
_NO_SPREAD: Final = 1e-15
_SEED: Final = 0

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Figure:
    """
    A figure, or why there is none.

    :param value: Finite; ``None`` if there is none.
    :param note: Why not.
    """

    value: float | None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """
    Predictions and what came of them, a value a judged row.

    :param long: Score of the long model.
    :param short: Score of the short model.
    :param target: Return over the interval.
    :param threshold: What a move must exceed to count as one.
    """

    long: FloatArray
    short: FloatArray
    target: FloatArray
    threshold: float


def compute_metrics(
    outcomes: Outcomes, returns: Returns, *, interval: int, bars_per_year: int, resamples: int
) -> Mapping[str, Figure]:
    """
    Return every figure by name.

    :param outcomes: Predictions and what came of them.
    :param returns: Positions and returns of the same rows.
    :param interval: Rows that a prediction looks ahead.
    :param bars_per_year: To annualise with.
    :param resamples: Resamples of the Sharpe ratio's interval.
    """
    net, score = returns.net, outcomes.long - outcomes.short
    low, high = sharpe_interval(net, interval, bars_per_year, resamples)
    rises, falls = outcomes.target > outcomes.threshold, outcomes.target < -outcomes.threshold
    return {
        "net_sharpe": sharpe(net, bars_per_year),
        "net_sharpe_low": low,
        "net_sharpe_high": high,
        **_measure_wealth(net),
        "turnover": _figure(float(returns.changes.mean()) * bars_per_year),
        **hit_rates(score, outcomes.target),
        "rank_corr": rank_correlation(score, outcomes.target),
        "n_test_rows": _figure(float(len(net))),
        "auc_long": roc_area(outcomes.long, rises),
        "auc_short": roc_area(outcomes.short, falls),
        "brier_long": _figure(float(((outcomes.long - rises) ** 2).mean())),
        "brier_short": _figure(float(((outcomes.short - falls) ** 2).mean())),
    }


def sharpe(net: FloatArray, bars_per_year: int) -> Figure:
    """Return √A · mean / standard deviation (ddof 1), with A bars a year."""
    spread = float(net.std(ddof=1))
    if spread < _NO_SPREAD:
        return Figure(None, "zero variance of returns")
    return _figure(math.sqrt(bars_per_year) * float(net.mean()) / spread)


def compute_pooled(
    net: FloatArray,
    score: FloatArray,
    target: FloatArray,
    *,
    folds: Sequence[int],
    interval: int,
    bars_per_year: int,
    resamples: int,
) -> Mapping[str, Figure]:
    """
    Return the figures of all folds of an interval together, by name.

    Only those that mean something over several models: what one says is never ranked among what
    another says.

    :param net: Net returns of all folds, one after the other.
    :param score: Long minus short score of the same rows.
    :param target: Return over the interval.
    :param folds: Rows of each.
    :param interval: Rows that a prediction looks ahead.
    :param bars_per_year: To annualise with.
    :param resamples: Resamples of the Sharpe ratio's interval.
    """
    low, high = sharpe_interval(net, interval, bars_per_year, resamples, folds)
    return {
        "net_sharpe": sharpe(net, bars_per_year),
        "net_sharpe_low": low,
        "net_sharpe_high": high,
        **_measure_wealth(net),
        **hit_rates(score, target),
        "n_test_rows": _figure(float(len(net))),
    }


def _measure_wealth(net: FloatArray) -> dict[str, Figure]:
    wealth = np.cumprod(1.0 + net)
    highest = np.maximum(1.0, np.maximum.accumulate(wealth))
    return {
        "max_drawdown": _figure(min(0.0, float((wealth / highest).min()) - 1.0)),
        "total_return": _figure(float(wealth[-1]) - 1.0),
    }


def sharpe_interval(
    net: FloatArray,
    interval: int,
    bars_per_year: int,
    resamples: int,
    folds: Sequence[int] = (),
) -> tuple[Figure, Figure]:
    """
    Return the 2.5th and 97.5th percentile of the Sharpe ratio over moving-block resamples.

    :param folds: Rows of each fold; empty for none.
    """
    rows = len(net)
    block = choose_block(rows, interval)
    if folds and min(folds) < block:
        none = Figure(None, f"too few rows for an interval ({min(folds)}, blocks of {block})")
        return none, none
    if rows < MIN_ROWS or rows // block < MIN_BLOCKS:
        none = Figure(None, f"too few rows for an interval ({rows}, blocks of {block})")
        return none, none
    mean, spread = float(net.mean()), float(net.std())
    if spread < _NO_SPREAD:
        none = Figure(None, "zero variance of returns")
        return none, none
    # Around zero and in units of the spread, a variance is no difference of two large numbers.
    scaled = (net - mean) / spread
    ratios = []
    for weights in draw_weights(rows, block, resamples, _SEED, folds):
        means = weights @ scaled
        variances = (weights @ scaled**2 - means**2) * rows / (rows - 1)
        if float(variances.min()) < 1e-12:
            none = Figure(None, "zero variance of returns")
            return none, none
        ratios.append((means + mean / spread) / np.sqrt(variances))
    low, high = np.percentile(np.concatenate(ratios), [2.5, 97.5]) * math.sqrt(bars_per_year)
    return _figure(float(low)), _figure(float(high))


def hit_rates(score: FloatArray, target: FloatArray) -> dict[str, Figure]:
    """Return the share of signs that were foreseen, that of the commoner sign, and the rest."""
    moved = target != 0
    count = int(moved.sum())
    names = ("hit_rate", "hit_rate_base", "hit_rate_minus_base")
    if not count:
        return dict.fromkeys(names, Figure(None, "no row has a move"))
    foreseen = int(((score > 0) & (target > 0)).sum() + ((score < 0) & (target < 0)).sum())
    rises = int((target > 0).sum())
    rate, base = foreseen / count, max(rises, count - rises) / count
    return dict(zip(names, map(_figure, (rate, base, rate - base)), strict=True))


def rank_correlation(score: FloatArray, target: FloatArray) -> Figure:
    """Return Spearman's correlation; equal values share their mean rank."""
    for name, values in (("prediction", score), ("target", target)):
        if values.min() == values.max():
            return Figure(None, f"constant {name}")
    ranks = np.corrcoef(rank(score), rank(target))
    return _figure(float(ranks[0, 1]))


def roc_area(score: FloatArray, outcome: Flags) -> Figure:
    """Return how often a row with the outcome scores above one without; a tie counts half."""
    hits, rows = int(outcome.sum()), len(outcome)
    if hits in (0, rows):
        return Figure(None, "all rows have the same outcome")
    if score.min() == score.max():
        return Figure(None, "constant prediction")
    above = float(rank(score)[outcome].sum()) - hits * (hits + 1) / 2
    return _figure(above / (hits * (rows - hits)))


def rank(values: FloatArray) -> FloatArray:
    """Return ranks from 1; equal values share their mean rank."""
    # SciPy has the same, and takes longer to load than all else here takes.
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    highest = np.cumsum(counts)
    ranks: FloatArray = (highest - (counts - 1) / 2)[place]
    return ranks


def find_beta(net: FloatArray, market: FloatArray) -> float | None:
    """Return the least-squares slope of net returns on the market's; ``None`` of a still market."""
    centred = market - market.mean()
    power = float(centred @ centred)
    return float(centred @ (net - net.mean())) / power if power > 0 else None


def find_active_sharpe(net: FloatArray, market: FloatArray, bars_per_year: float) -> float | None:
    """Return the Sharpe ratio without the market; 0 of what has no risk beyond it."""
    columns = take_out_market(net[:, None, None], market)
    value = float(sharpe_ratios(columns, bars_per_year)[0, 0])
    return value if math.isfinite(value) else None


def _figure(value: float) -> Figure:
    return Figure(value) if math.isfinite(value) else Figure(None, "not a finite number")
