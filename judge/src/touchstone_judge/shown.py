"""Figures that stand beside a verdict and decide nothing."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri
from scipy.stats import kurtosis, skew

from touchstone_judge.bootstrap import choose_block
from touchstone_judge.panel import NEGLIGIBLE, FloatArray, Panel

_DIGITS = 9


def deflated_sharpe_ratio(returns: FloatArray, trial_ratios: FloatArray) -> float | None:
    """
    Return the probability that a Sharpe ratio exceeds what the best of all trials has by chance.

    Bailey and López de Prado (2014), equations 1 and 2, with ratios a bar, V the trials' variance
    and g Euler's constant: SR0 = √V·((1 - g)·Φ⁻¹(1 - 1/N) + g·Φ⁻¹(1 - 1/(N·e))), and
    Φ((SR - SR0)·√(T - 1) / √(1 - skewness·SR + (kurtosis - 1)/4·SR²)).

    :param returns: Of one series, of shape (rows,).
    :param trial_ratios: Sharpe ratios a bar of all N trials, this one included.
    :returns: ``None`` for fewer than two trials, or a series without spread, or whose ratio has
        none, as of one that takes two values only.
    """
    trials, rows = len(trial_ratios), len(returns)
    spread = returns.std(ddof=1)
    if trials < 2 or spread <= NEGLIGIBLE * np.abs(returns).max():
        return None
    ratio = float(returns.mean() / spread)
    gamma = float(np.euler_gamma)
    expected = float((1 - gamma) * ndtri(1 - 1 / trials) + gamma * ndtri(1 - 1 / (trials * math.e)))
    hurdle = float(trial_ratios.std(ddof=1)) * expected
    peakedness = float(kurtosis(returns, fisher=False))
    width = 1 - float(skew(returns)) * ratio + (peakedness - 1) / 4 * ratio**2
    # Of moments that are no numbers it is none either.
    if not width > NEGLIGIBLE:
        return None
    return float(ndtr((ratio - hurdle) * math.sqrt(rows - 1) / math.sqrt(width)))


def probability_of_overfitting(panel: Panel, *, groups: int = 10) -> float | None:
    """
    Return how often the best submission on one half of the rows is below the other half's median.

    Combinatorially symmetric cross-validation (Bailey and others 2017): the rows are cut into
    ``groups`` blocks, each half of them is once the sample, and the share is over all halves.

    :param groups: Even.
    :returns: ``None`` for fewer than two submissions, or fewer rows than two a group.
    """
    series = panel.active[:, 1:, :]
    rows, submissions, _ = series.shape
    if submissions < 2 or rows < 2 * groups:
        return None
    bounds = np.linspace(0, rows, groups + 1).astype(int)
    parts = [series[a:b] for a, b in pairwise(bounds)]
    sums = np.stack([part.sum(axis=0) for part in parts])
    squares = np.stack([(part**2).sum(axis=0) for part in parts])
    sizes = np.diff(bounds)
    below = total = 0
    for half in combinations(range(groups), groups // 2):
        inside = np.zeros(groups, dtype=bool)
        inside[list(half)] = True
        best = int(np.argmax(_scores(sums, squares, sizes, inside)))
        outside = _scores(sums, squares, sizes, ~inside)
        rank = (np.sum(outside < outside[best]) + 0.5 * (np.sum(outside == outside[best]) + 1)) / (
            submissions + 1
        )
        below += rank <= 0.5
        total += 1
    return below / total


def _scores(
    sums: FloatArray,
    squares: FloatArray,
    sizes: npt.NDArray[np.int_],
    chosen: npt.NDArray[np.bool_],
) -> FloatArray:
    rows = sizes[chosen].sum()
    mean = sums[chosen].sum(axis=0) / rows
    variance = squares[chosen].sum(axis=0) / rows - mean * mean
    some = variance > 0
    ratios = np.divide(
        mean,
        np.sqrt(variance, where=some, out=np.ones_like(mean)),
        out=np.zeros_like(mean),
        where=some,
    )
    scores: FloatArray = ratios.mean(axis=1)
    return scores


def leading_p(panel: Panel, *, resamples: int = 1_000, seed: int = 0) -> dict[str, float]:
    """
    Return each series' p of leading: the group at 90 % are those with more than 0.1.

    Hansen, Lunde and Nason's model confidence set (2011) with the maximum statistic, by arch. Of
    series that are equal only the first is compared, and shares its p with the others.

    :param resamples: How many.
    :param seed: Of the drawing.
    :returns: By name, the baseline's among them. 1 for all where all are equal.
    """
    import pandas as pd
    from arch.bootstrap import MCS

    spread = panel.active.std(axis=0, ddof=1)
    scaled = np.divide(panel.active, spread, out=np.zeros_like(panel.active), where=spread > 0)
    # What differs by less is a copy, of which arch can tell no spread.
    losses = np.round(-scaled.mean(axis=2), _DIGITS)
    representative: dict[bytes, int] = {}
    stands_for = [representative.setdefault(loss.tobytes(), i) for i, loss in enumerate(losses.T)]
    kept = sorted(representative.values())
    if len(kept) < 2:
        return dict.fromkeys(panel.names, 1.0)
    found = MCS(
        pd.DataFrame(losses[:, kept], columns=kept),
        size=0.1,
        block_size=choose_block(panel.rows, panel.longest_interval),
        reps=resamples,
        bootstrap="moving block",
        method="max",
        seed=seed,
    )
    found.compute()
    values = found.pvalues["Pvalue"]
    return {name: float(values[at]) for name, at in zip(panel.names, stands_for, strict=True)}
