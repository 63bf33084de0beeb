"""From scores to positions to returns after cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Scale:
    """
    What turns a score into a position; from validation rows, never from scored ones.

    :param mean: Mean of the validation scores.
    :param std: Their standard deviation; 0 for a model with one opinion.
    """

    mean: float
    std: float


@dataclass(frozen=True, kw_only=True)
class Backtest:
    """
    A position and its returns, one value a scored row.

    :param position: From -1 to 1, held from the close of the row to the next close.
    :param gross: Return to the next close.
    :param net: The same after cost.
    """

    position: np.ndarray
    gross: np.ndarray
    net: np.ndarray


def fit_scale(scores: np.ndarray) -> Scale:
    """Return mean and standard deviation of the validation rows' scores."""
    std = float(np.std(scores, ddof=1))
    # Rounding noise of a constant is not an opinion to be magnified.
    return Scale(mean=float(np.mean(scores)), std=std if std > 1e-9 else 0.0)


def run_backtest(
    scores: np.ndarray, next_returns: np.ndarray, scale: Scale, horizon: int, cost: float
) -> Backtest:
    """
    Hold the mean of the last ``horizon`` opinions, and pay for every change.

    :param scores: Long minus short score of each scored row, in time order.
    :param next_returns: Return from the row's close to the next close.
    :param scale: From the validation rows; without spread the sign of the score is held.
    :param horizon: Number of overlapping sleeves.
    :param cost: Cost of changing the position by one, as a fraction.
    """
    if scale.std > 0:
        opinion = np.clip((scores - scale.mean) / scale.std, -2, 2) / 2
    else:
        opinion = np.sign(scores)
    # The first rows have fewer sleeves open; those not yet opened hold nothing.
    padded = np.concatenate([np.zeros(horizon - 1), opinion])
    position = np.convolve(padded, np.full(horizon, 1 / horizon), mode="valid")
    change = np.abs(np.diff(position, prepend=0.0))
    gross = position * next_returns
    return Backtest(position=position, gross=gross, net=gross - cost * change)
