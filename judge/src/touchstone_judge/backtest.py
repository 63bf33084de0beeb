"""From predictions to positions to returns after cost; the definitions are in docs/judging.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from touchstone_judge.panel import FloatArray

_NO_SPREAD: Final = 1e-9
"""Standard deviation of scores up to which a model has one opinion only."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """
    What turns a score into a position.

    :param mean: Mean of the validation rows' scores.
    :param std: Their standard deviation (ddof 1); 0 for a model with one opinion.
    """

    mean: float
    std: float


@dataclass(frozen=True, kw_only=True)
class Returns:
    """
    What holding the positions has earned, one value a row.

    :param position: From -1 to 1, from the row's close to the next one.
    :param changes: By how much it was changed for that, absolute.
    :param net: Return after cost.
    """

    position: FloatArray
    changes: FloatArray
    net: FloatArray


def find_scale(validation_scores: FloatArray) -> Scale:
    """Return the scale of the validation rows: never of the rows that are judged."""
    std = float(validation_scores.std(ddof=1))
    return Scale(mean=float(validation_scores.mean()), std=std if std > _NO_SPREAD else 0.0)


def hold(
    scores: FloatArray, market: FloatArray, scale: Scale, *, interval: int, cost_bps: float
) -> Returns:
    """
    Hold the mean of the last ``interval`` opinions, and pay for each change.

    An opinion is half of the standardised score, from -1 to 1; before the first row there was none.

    :param scores: Long minus short score, in time order.
    :param market: Return from the row's close to the next one.
    :param interval: Rows that a prediction looks ahead: as many opinions are held at a time.
    :param cost_bps: Cost of changing the position by one, basis points.
    """
    if scale.std == 0.0:
        opinions = np.sign(scores)
    else:
        opinions = np.clip((scores - scale.mean) / (2 * scale.std), -1.0, 1.0)
    before = np.concatenate((np.zeros(interval - 1), opinions))
    held = np.lib.stride_tricks.sliding_window_view(before, interval)
    position: FloatArray = held.sum(axis=1) / interval
    changes: FloatArray = np.abs(position - np.concatenate(([0.0], position[:-1])))
    net: FloatArray = position * market - cost_bps / 10_000 * changes
    return Returns(position=position, changes=changes, net=net)
