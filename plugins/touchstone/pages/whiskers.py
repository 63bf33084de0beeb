"""Where the marks of differences and their intervals stand in a drawing. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 200
"""Of a drawing, in its own units."""
_MARGIN: Final = 6
_LEAST_SPAN: Final = 0.1

Interval = tuple[float | None, float | None, float | None]


@dataclass(frozen=True, kw_only=True)
class Whisker:
    """
    Positions from the left, in units of :data:`WIDTH`.

    :param low: Lower end of the interval.
    :param middle: The estimate.
    :param high: Upper end.
    :param zero: No difference at all.
    """

    low: float
    middle: float
    high: float
    zero: float


def build_whiskers(intervals: Sequence[Interval]) -> list[Whisker | None]:
    """
    Return where each interval stands, all on one scale that shows 0.

    :param intervals: Lower end, estimate and upper end; one without all three has no drawing.
    """
    known = [_read(each) for each in intervals]
    ends = [value for each in known if each for value in each]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    span = max(high - low, _LEAST_SPAN)

    def place(value: float) -> float:
        return round(_MARGIN + (WIDTH - 2 * _MARGIN) * (value - low) / span, 2)

    return [
        each
        and Whisker(low=place(each[0]), middle=place(each[1]), high=place(each[2]), zero=place(0.0))
        for each in known
    ]


def _read(interval: Interval) -> tuple[float, float, float] | None:
    low, middle, high = interval
    if low is None or middle is None or high is None:
        return None
    is_drawable = all(map(math.isfinite, (low, middle, high))) and low <= middle <= high
    return (low, middle, high) if is_drawable else None
