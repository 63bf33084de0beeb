"""What charts of one training show, as figures: of the judged rows, and of nothing else. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from touchstone_judge.bootstrap import choose_block, draw_rows
from touchstone_judge.metrics import MIN_BLOCKS, MIN_ROWS, Flags, rank_correlation
from touchstone_judge.panel import FloatArray

MAX_POINTS: Final = 400
"""Points of a curve: more than a screen shows, and few bytes."""
WINDOW: Final = 252
"""Rows of a rolling correlation: a year of days."""
RESAMPLES: Final = 1_000

_BINS: Final = 10
_BIN_ROWS: Final = 30
_SEED: Final = 0
_Z: Final = 1.959963984540054
"""Φ⁻¹(0.975)."""

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """
    The judged rows of a training, in time order; all arrays are of one length.

    :param interval: Rows that a prediction looks ahead.
    :param time: When, ISO 8601.
    :param net: Return after cost.
    :param long: Score of the long model: how likely it takes a rise to be.
    :param short: The same of the short model, and of a fall.
    :param target: Return over the interval.
    :param threshold: What a move must exceed to count as one.
    :param baseline_net: The baseline's net returns of the same rows; ``None`` if there are none.
    """

    interval: int
    time: Sequence[str]
    net: FloatArray
    long: FloatArray
    short: FloatArray
    target: FloatArray
    threshold: float
    baseline_net: FloatArray | None

    def __post_init__(self) -> None:
        arrays = [self.net, self.long, self.short, self.target]
        arrays += [] if self.baseline_net is None else [self.baseline_net]
        if any(each.shape != (len(self.time),) for each in arrays) or len(self.time) < 2:
            raise ValueError("the rows are not of one length, or fewer than two")
        if not all(np.isfinite(each).all() for each in arrays):
            raise ValueError("a row holds what is not finite")
        if not 1 <= self.interval <= len(self.time):
            raise ValueError("the interval is not from 1 to the rows")


def compute_charts(rows: Rows) -> dict[str, dict[str, Any]]:
    """Return the figures of each chart by its name; ``note`` says what is missing, and why."""
    return {
        "equity": show_equity(rows),
        "drawdown": show_drawdown(rows),
        "calibration": show_calibration(rows),
        "rank_correlation": show_rank_correlation(rows),
    }


def show_equity(rows: Rows) -> dict[str, Any]:
    """
    Return what one unit became, the baseline's beside it, and where 95 % of resamples are.

    The band is of histories that were put together anew from blocks of the same net returns: how
    far a history of such returns spreads by chance alone.
    """
    grid = choose_points(len(rows.net))
    shown: dict[str, Any] = {
        "time": [rows.time[i] for i in grid],
        "value": np.cumprod(1 + rows.net)[grid].tolist(),
        "low": None,
        "high": None,
        "baseline": None,
        "note": "",
    }
    if rows.baseline_net is not None:
        shown["baseline"] = np.cumprod(1 + rows.baseline_net)[grid].tolist()
    block = choose_block(len(rows.net), rows.interval)
    if len(rows.net) < MIN_ROWS or len(rows.net) // block < MIN_BLOCKS:
        shown["note"] = f"too few rows for a band ({len(rows.net)}, blocks of {block})"
        return shown
    low, high = find_band(rows.net, block, grid)
    return shown | {"low": low.tolist(), "high": high.tolist()}


def find_band(net: FloatArray, block: int, grid: Indices) -> tuple[FloatArray, FloatArray]:
    """
    Return the 2.5th and 97.5th percentile of resampled equity at some rows.

    :param block: Rows of a block.
    :param grid: At which rows.
    """
    # Of long histories a few at a time: only what is shown of each is kept.
    some = max(1, min(100, 2_000_000 // len(net)))
    found = [
        np.cumprod(1 + net[drawn], axis=1)[:, grid]
        for drawn in draw_rows(len(net), block, RESAMPLES, _SEED, at_once=some)
    ]
    low, high = np.percentile(np.concatenate(found), [2.5, 97.5], axis=0)
    return low, high


def show_drawdown(rows: Rows) -> dict[str, Any]:
    """Return how far the equity was below its highest so far: 0 at most."""
    grid = choose_points(len(rows.net))
    wealth = np.cumprod(1 + rows.net)
    highest = np.maximum(1.0, np.maximum.accumulate(wealth))
    fallen = np.minimum(wealth / highest - 1, 0.0)
    return {
        "time": [rows.time[i] for i in grid],
        "value": fallen[grid].tolist(),
        "note": "",
    }


def show_calibration(rows: Rows) -> dict[str, Any]:
    """
    Return how often what was said to be likely came about, in bins of equally many rows.

    Each bin has the mean of what was said, the share of rows that moved so, and Wilson's 95 %
    interval of that share.
    """
    return {
        "long": _find_bins(rows.long, rows.target > rows.threshold),
        "short": _find_bins(rows.short, rows.target < -rows.threshold),
        "note": "",
    }


def _find_bins(said: FloatArray, came: Flags) -> list[dict[str, float]]:
    count = 1 if said.min() == said.max() else max(1, min(_BINS, len(said) // _BIN_ROWS))
    order = np.argsort(said, kind="stable")
    bins = []
    for part in np.array_split(order, count):
        rows, share = len(part), float(came[part].mean())
        middle = (share + _Z**2 / (2 * rows)) / (1 + _Z**2 / rows)
        half = (
            _Z * math.sqrt(share * (1 - share) / rows + _Z**2 / (4 * rows**2)) / (1 + _Z**2 / rows)
        )
        bins.append(
            {
                "said": float(said[part].mean()),
                "share": share,
                "low": max(middle - half, 0.0),
                "high": min(middle + half, 1.0),
                "rows": rows,
            }
        )
    return bins


def show_rank_correlation(rows: Rows) -> dict[str, Any]:
    """
    Return Spearman's correlation of score and outcome over the 252 rows before, row by row.

    ``noise`` is what 19 of 20 of no skill stay within: 1.96 · √(interval / 252), since outcomes
    over an interval overlap.
    """
    if len(rows.net) < WINDOW:
        note = f"too few rows ({len(rows.net)}, a window has {WINDOW})"
        return {"time": [], "value": [], "noise": None, "note": note}
    score = rows.long - rows.short
    ends = choose_points(len(rows.net) - WINDOW + 1) + WINDOW
    values = [
        rank_correlation(score[end - WINDOW : end], rows.target[end - WINDOW : end]).value
        for end in ends
    ]
    return {
        "time": [rows.time[end - 1] for end in ends],
        "value": values,
        "noise": min(_Z * math.sqrt(rows.interval / WINDOW), 1.0),
        "note": "" if None not in values else "a constant prediction has none",
    }


def choose_points(rows: int) -> Indices:
    """Return which of so many rows are shown: 400 at most, the first and the last among them."""
    points: Indices = np.unique(np.linspace(0, rows - 1, min(rows, MAX_POINTS)).round()).astype(
        np.intp
    )
    return points


def read_rows(question: Mapping[str, Any]) -> Rows:
    """
    Return the rows that a question brings.

    :raises KeyError: If it lacks something.
    :raises ValueError: If they make no sense.
    """

    def read(name: str) -> FloatArray:
        return np.array(question[name], dtype=np.float64)

    return Rows(
        interval=int(question["interval"]),
        time=[str(each) for each in question["time"]],
        net=read("net"),
        long=read("long"),
        short=read("short"),
        target=read("target"),
        threshold=float(question["threshold"]),
        baseline_net=None if question.get("baseline_net") is None else read("baseline_net"),
    )
