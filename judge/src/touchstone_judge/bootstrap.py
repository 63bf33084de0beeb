"""Moving-block resamples of dates, drawn once for all series together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from touchstone_judge.panel import NEGLIGIBLE, FloatArray, Panel

_AT_ONCE = 500
"""Resamples in one matrix product: 500 x 3,500 rows are 14 MB."""


def choose_block(rows: int, longest_interval: int) -> int:
    """
    Return the length of a block: max(longest interval, ⌈rows^⅓⌉), a tenth of the rows at most.

    The cube root is the rate of Künsch (1989) for the variance of a mean; a block is no shorter
    than what overlapping predictions share.
    """
    return max(min(max(longest_interval, math.ceil(math.cbrt(rows))), rows // 10), 1)


def draw_weights(
    rows: int, block: int, resamples: int, seed: int, folds: Sequence[int] = ()
) -> Iterator[FloatArray]:
    """
    Yield matrices of shape (some resamples, rows): how often a row was drawn, divided by the rows.

    Each line sums to 1, so that its product with returns is their resampled mean. The same
    arguments give the same weights.

    :param seed: Of the drawing.
    :param folds: Rows of each fold; empty for none.
    """
    for drawn in draw_rows(rows, block, resamples, seed, at_once=_AT_ONCE, folds=folds):
        some = len(drawn)
        line = np.arange(some)[:, None] * rows
        counts = np.bincount((drawn + line).ravel(), minlength=some * rows)
        yield counts.reshape(some, rows) / rows


def draw_rows(
    rows: int,
    block: int,
    resamples: int,
    seed: int,
    *,
    at_once: int,
    folds: Sequence[int] = (),
) -> Iterator[npt.NDArray[np.int64]]:
    """
    Yield matrices of shape (some resamples, rows): which rows a resample is made of, in its order.

    No block reaches from one fold into the next: what its rows share is the memory of one model.

    :param seed: Of the drawing.
    :param at_once: Resamples in one matrix; the rows drawn are the same for any.
    :param folds: Rows of each fold, none shorter than a block; empty for none.
    """
    rng = np.random.default_rng(seed)
    blocks = math.ceil(rows / block)
    within = np.arange(block)
    possible = find_starts(folds or (rows,), block)
    for begin in range(0, resamples, at_once):
        some = min(at_once, resamples - begin)
        starts = possible[rng.integers(0, len(possible), size=(some, blocks))]
        yield (starts[:, :, None] + within).reshape(some, -1)[:, :rows]


def find_starts(folds: Sequence[int], block: int) -> npt.NDArray[np.int64]:
    """Return the rows at which a block can begin that ends in the same fold."""
    ends = np.cumsum(folds)
    parts = [np.arange(end - rows, end - block + 1) for end, rows in zip(ends, folds, strict=True)]
    return np.concatenate(parts).astype(np.int64)


def resample_scores(panel: Panel, *, resamples: int, seed: int) -> FloatArray:
    """
    Return each series' score on resampled dates, of shape (resamples, series).

    All series and intervals see the same dates, so that what they share falls out of a difference.
    The market is taken out of the dates drawn, as it is of all dates: its slope is an estimate as
    well, and a fixed one would make the spread of a score too small.

    :param resamples: How many.
    :param seed: Of the drawing.
    """
    rows, series, intervals = panel.net.shape
    flat, mean, some = _standardise(panel.active.reshape(rows, -1))
    market, market_mean, moves = _standardise(panel.market[:, None])
    squares, products = flat * flat, flat * market
    block = choose_block(rows, panel.longest_interval)
    unbias = math.sqrt(panel.bars_per_year * (rows - 1) / rows)
    scores = np.empty((resamples, series))
    begin = 0
    for weights in draw_weights(rows, block, resamples, seed, panel.folds):
        means, market_means = weights @ flat, weights @ market
        variances = weights @ squares - means * means
        market_variances = weights @ (market * market) - market_means * market_means
        covariances = weights @ products - means * market_means
        slopes = _divide(covariances, market_variances, moves & (market_variances > NEGLIGIBLE))
        variances -= slopes * covariances
        # Dates on which a series did nothing at all give no ratio: it earned nothing.
        active = some & (variances > NEGLIGIBLE)
        earned = means + mean - slopes * (market_means + market_mean)
        ratios = _divide(earned, np.sqrt(np.maximum(variances, 0)), active)
        by_interval = ratios.reshape(len(weights), series, intervals)
        scores[begin : begin + len(weights)] = unbias * by_interval.mean(axis=2)
        begin += len(weights)
    return scores


def _standardise(returns: FloatArray) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
    """
    Return returns around zero in units of their spread, their mean in these, and which have one.

    A variance is then no difference of two large numbers.
    """
    mean, spread = returns.mean(axis=0), returns.std(axis=0)
    some = spread > 0
    return _divide(returns - mean, spread, some), _divide(mean, spread, some), some


def _divide(
    numerator: FloatArray, denominator: FloatArray, where: npt.NDArray[np.bool_]
) -> FloatArray:
    quotient: FloatArray = np.zeros(np.broadcast_shapes(numerator.shape, denominator.shape))
    np.divide(numerator, denominator, out=quotient, where=where)
    return quotient


def interval_of_score(panel: Panel, *, resamples: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """Return the 2.5th and 97.5th percentile of each series' resampled score."""
    scores = resample_scores(panel, resamples=resamples, seed=seed)
    low, high = np.percentile(scores, [2.5, 97.5], axis=0)
    return low, high
