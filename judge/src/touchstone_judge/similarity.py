"""How alike two predictions are, and what one adds to another."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

from touchstone_judge.panel import FloatArray


def gaussianise(values: FloatArray) -> FloatArray | None:
    """
    Return Φ⁻¹((rank - ½)/n) of each value, with mean 0 and standard deviation 1.

    Ties share their mean rank. ``None`` for a constant: it ranks nothing.

    :param values: Finite, of shape (rows,).
    """
    if not np.isfinite(values).all():
        raise ValueError("a prediction is not finite")
    normal = ndtri((rankdata(values) - 0.5) / len(values))
    spread = normal.std()
    if spread < 1e-12:
        return None
    standard: FloatArray = (normal - normal.mean()) / spread
    return standard


def similarity(one: FloatArray, other: FloatArray) -> float | None:
    """
    Return the correlation of two predictions' gaussianised ranks, from -1 to 1.

    ``None`` if one of them is a constant.
    """
    a, b = gaussianise(one), gaussianise(other)
    if a is None or b is None:
        return None
    return float(a @ b) / len(a)


def contribution(prediction: FloatArray, baseline: FloatArray, target: FloatArray) -> float | None:
    """
    Return what a prediction adds to the baseline's correlation with the target.

    With gaussianised ranks p of the prediction and m of the baseline, o = p - m·(p·m)/(m·m), and
    the value is o·y/n for the standardised target y: proportional to the growth of corr(y, m + εp)
    at ε = 0 (Numerai's benchmark model contribution). ``None`` if anything of it is a constant. A
    copy of the baseline adds nothing, whatever its own correlation is: that belongs beside it.
    """
    p, m = gaussianise(prediction), gaussianise(baseline)
    return None if p is None or m is None else add_to_correlation(p, m, target)


def add_to_correlation(p: FloatArray, m: FloatArray, target: FloatArray) -> float | None:
    """
    Return the contribution of a prediction; see :func:`contribution`.

    :param p: Its gaussianised ranks.
    :param m: Those of the baseline.
    """
    return correlate_with(p - m * (p @ m) / (m @ m), target)


def correlate_with(standard: FloatArray, target: FloatArray) -> float | None:
    """
    Return x·y/n for the standardised target y; ``None`` for a target that stands still.

    :param standard: x, of mean 0: gaussianised ranks, for which that is the correlation.
    """
    spread = float(target.std())
    if spread == 0.0:
        return None
    return float(np.dot(standard, target - target.mean())) / (spread * len(target))
