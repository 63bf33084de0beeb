"""What each model gives to the best mean of models, by RAMP's rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from touchstone_judge.panel import FloatArray

MAX_PICKS = 80

Score = Callable[[FloatArray], FloatArray]
"""Scores of predictions of shape (models, rows), higher is better, of shape (models,)."""


@dataclass(frozen=True, kw_only=True)
class Fold:
    """
    One fold's predictions of all models, on its validation rows.

    :param predictions: Of shape (models, rows); NaN where a model says nothing.
    :param score: What the fold's rows make of predictions.
    """

    predictions: FloatArray
    score: Score


def pick_models(fold: Fold, *, min_improvement: float = 0.0) -> tuple[int, ...]:
    """
    Return the models whose mean scores best, in the order in which they were picked.

    The best single model comes first. Whichever model makes the mean best is added, the same one
    again if need be, while that is an improvement, up to 80 picks; of equals the first is taken
    (Caruana and others 2004, as ``blend_on_fold`` of ramp-workflow 0.7.0 does it).

    :param min_improvement: What an addition must gain at least.
    """
    predictions = fold.predictions
    if not len(predictions):
        return ()
    told = ~np.isnan(predictions)
    values = np.where(told, predictions, 0.0)
    scores = fold.score(predictions)
    best = int(np.argmax(scores))
    picks, score = [best], float(scores[best])
    total, count = values[best].copy(), told[best].astype(np.int64)
    while len(picks) < MAX_PICKS:
        counts = count + told
        means = np.full_like(values, np.nan)
        np.divide(total + values, counts, out=means, where=counts > 0)
        scores = fold.score(means)
        candidate = _find_improvement(scores, score + min_improvement, min_improvement)
        if candidate is None:
            break
        picks.append(candidate)
        score = float(scores[candidate])
        total += values[candidate]
        count += told[candidate]
    return tuple(picks)


def _find_improvement(scores: FloatArray, threshold: float, margin: float) -> int | None:
    """
    Return the model that a walk over all keeps last, as RAMP walks.

    Each improvement raises what the next has to exceed, by the margin too.
    """
    found = None
    for index in np.flatnonzero(scores > threshold):
        if scores[index] > threshold:
            found, threshold = int(index), float(scores[index]) + margin
    return found


def compute_contributivity(folds: Sequence[Fold]) -> FloatArray:
    """
    Return each model's share of the picks, averaged over the folds, of shape (models,).

    The shares sum to 1. Models without any skill share as well: what equals would get belongs
    beside it.
    """
    models = len(folds[0].predictions) if folds else 0
    shares: npt.NDArray[np.float64] = np.zeros(models)
    for fold in folds:
        picks = pick_models(fold)
        for pick in picks:
            shares[pick] += 1 / (len(picks) * len(folds))
    return shares
