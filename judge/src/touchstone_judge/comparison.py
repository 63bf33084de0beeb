"""What each submission scores beyond the baseline, and how likely chance alone does that."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from touchstone_judge.bootstrap import choose_block, resample_scores
from touchstone_judge.panel import FloatArray, Panel

ALPHA = 0.05
"""How often chance alone may make a submission better, over all that are compared."""

POWER_80 = 0.8416212335729143
"""Φ⁻¹(0.8)."""


@dataclass(frozen=True, kw_only=True)
class Edge:
    """
    One submission against the baseline.

    :param name: The submission's.
    :param difference: Its score less the baseline's, in annual Sharpe ratios.
    :param low: 2.5th percentile of the resampled difference.
    :param high: 97.5th percentile.
    :param standard_error: Standard deviation of the resampled difference.
    :param p_own: One-sided p as if it alone had been compared.
    :param p_adjusted: One-sided p that counts every submission of the panel.
    :param compared: How many that are.
    :param detectable: The difference that would be found in 8 of 10 cases.
    """

    name: str
    difference: float
    low: float
    high: float
    standard_error: float
    p_own: float
    p_adjusted: float
    compared: int
    detectable: float


def compare(panel: Panel, *, resamples: int = 1_000, seed: int = 0) -> tuple[Edge, ...]:
    """
    Compare each submission with the baseline, in the panel's order.

    :param panel: Everybody's submissions on these rows: the adjusted p counts those that are there.
    :param resamples: 10,000 where a p below 5 % divided by a hundred matters.
    :param seed: Of the drawing; the same panel and seed give the same figures.
    """
    if not panel.submissions:
        return ()
    scores = resample_scores(panel, resamples=resamples, seed=seed)
    differences = panel.scores[1:] - panel.scores[0]
    # A mean of k blocks drawn from k spreads by (k - 1)/k of what it should, as any sample does.
    blocks = panel.rows / choose_block(panel.rows, panel.longest_interval)
    deviations = scores[:, 1:] - scores[:, [0]] - differences
    resampled = differences + math.sqrt(blocks / (blocks - 1)) * deviations
    errors = resampled.std(axis=0, ddof=1)
    # One that never differs from the baseline has no t; it is as far from better as can be.
    differs = errors > 0
    safe = np.where(differs, errors, 1.0)
    t = np.where(differs, differences / safe, -np.inf)
    null = np.where(differs, (resampled - differences) / safe, -np.inf)
    own = np.where(differs, (1 + (null >= t).sum(axis=0)) / (1 + resamples), 1.0)
    adjusted = np.where(differs, step_down(t, null), 1.0)
    low, high = np.percentile(resampled, [2.5, 97.5], axis=0)
    critical = float(np.quantile(null.max(axis=1), 1 - ALPHA)) if differs.any() else 0.0
    return tuple(
        Edge(
            name=name,
            difference=float(differences[i]),
            low=float(low[i]),
            high=float(high[i]),
            standard_error=float(errors[i]),
            p_own=float(own[i]),
            p_adjusted=float(adjusted[i]),
            compared=len(differences),
            detectable=float(errors[i]) * (critical + POWER_80),
        )
        for i, name in enumerate(panel.submissions)
    )


def step_down(t: FloatArray, null: FloatArray) -> FloatArray:
    """
    Return one-sided p values that hold for all hypotheses at once.

    Romano and Wolf (2005), studentised: with the largest t first, the j-th hypothesis is compared
    with the largest resampled t of those that are left, and no p is smaller than one before it.

    :param t: Of shape (hypotheses,).
    :param null: Resampled t around the estimate, of shape (resamples, hypotheses).
    """
    order = np.argsort(-t, kind="stable")
    largest_left = np.maximum.accumulate(null[:, order[::-1]], axis=1)[:, ::-1]
    exceeded = (1 + (largest_left >= t[order]).sum(axis=0)) / (1 + len(null))
    adjusted = np.empty_like(t)
    adjusted[order] = np.maximum.accumulate(exceeded)
    return adjusted
