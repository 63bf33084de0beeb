"""
Does a feature at time t change when rows after t do?

Each seeded cut is tried twice: the rows from it on are dropped, and they are replaced by another
valid path. Rows before the cut must stay what they were. Clean means that no look-ahead was found
in that many cuts, not that there is none.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from elnigma.data import Group, MarketData
from elnigma.feature_frame import format_time, show

N_CUTS = 16
CUTS_A_SPAN = 8
SCALE_TOLERANCE = 1e-6
_USUAL_TIMES = 10
ABSOLUTE_TOLERANCE = 1e-12
RELATIVE_TOLERANCE = 1e-9
# Leaves the first cut some rows that are past a usual warm-up.
_FIRST_CUT_SHARE = 0.25
_MIN_ROWS_AFTER_CUT = 5
_SHORT_BLOCKS = 96
"""Of bars that are shorter than a day: so many as the judged months of the data built in."""
_MIN_BLOCK_ROWS = 21
# Nobody fills half a year from behind.
_MOST_FILLED = 126

DROPPED = "are removed"
REPLACED = "are replaced by others"


@dataclass(frozen=True, kw_only=True)
class Leak:
    """
    One value before a cut that changed with the rows behind it.

    :param column: The feature.
    :param row: The latest row that changed: nearest to the cut, the least deniable.
    :param depth: Rows between the earliest row that changed and the cut.
    :param cut: First row that was dropped or replaced.
    :param how: Which of the two was done.
    :param before: The value with all rows as they are.
    :param after: The value with the rows from the cut on changed.
    """

    column: str
    row: int
    depth: int
    cut: int
    how: str
    before: float
    after: float


def choose_cuts(
    rows: int, warm_up: int, rng: np.random.Generator, n_cuts: int = N_CUTS
) -> list[int]:
    """Return distinct cuts, increasing, all past the warm-up and short of the end."""
    first = max(int(rows * _FIRST_CUT_SHARE), warm_up + 1)
    last = rows - _MIN_ROWS_AFTER_CUT
    if last - first < n_cuts:
        raise ValueError(f"{rows} rows are too few for {n_cuts} cuts")
    return sorted(int(cut) for cut in rng.choice(np.arange(first, last), n_cuts, replace=False))


def choose_judged_cuts(spans: Sequence[tuple[int, int]], rng: np.random.Generator) -> list[int]:
    """
    Return distinct cuts, increasing: as many in each span, all past its first row.

    :param spans: First row of each, and the row behind its last.
    :param rng: Source of the choice.
    """
    cuts: list[int] = []
    for first, end in spans:
        rows = np.arange(first + _MIN_ROWS_AFTER_CUT, end - _MIN_ROWS_AFTER_CUT)
        cuts += sorted(int(cut) for cut in rng.choice(rows, CUTS_A_SPAN, replace=False))
    return cuts


def find_block_ends(index: pd.DatetimeIndex, first: int, months: int) -> list[int]:
    """
    Return the row behind the last one of each block of calendar months, but for the last block.

    :param index: Days of the data.
    :param first: First row of the first block.
    :param months: Of a block; divides a year.
    """
    block = (index.year * 12 + index.month - 1) // months
    is_first = np.flatnonzero(np.diff(block.to_numpy())) + 1
    return [int(row) for row in is_first if row > first]


def find_short_block_ends(first: int, end: int, months: int) -> list[int]:
    """
    Return the row behind the last one of each block of bars that are shorter than a day.

    Blocks are of one length, and as many as those of months are in the data that are built in, so
    that as many calls are made. The last one has no end.

    :param first: First row of the first block.
    :param end: The row behind the last one.
    :param months: How many of the shortest blocks make one.
    """
    length = max(_MIN_BLOCK_ROWS, -(-(end - first) * months // _SHORT_BLOCKS))
    return list(range(first + length, end, length))


def replace_future(data: MarketData, cut: int, rng: np.random.Generator) -> MarketData:
    """
    Replace the rows from ``cut`` on by a reshuffled path that is valid market data.

    :param data: Market data.
    :param cut: First row to replace.
    :param rng: Source of the order.
    """
    return rearrange(data, cut, rng.permutation(np.arange(cut, len(data.frame))))


def rearrange(data: MarketData, cut: int, order: np.ndarray) -> MarketData:
    """
    Replace the rows from ``cut`` on by a path of other bars that is valid market data.

    Each bar keeps its prices relative to the close before it, so that highs stay highs and volumes
    positive; only the order of what happens is another.

    :param data: Market data.
    :param cut: First row to replace.
    :param order: The bar that comes in each row from there on; none is the first of the data.
    """
    frame, groups = data.frame, []
    columns: dict[str, np.ndarray] = {}
    for group in data.groups:
        close = group.close
        path = close[cut - 1] * np.cumprod(close[order] / close[order - 1])
        previous = np.concatenate([[close[cut - 1]], path[:-1]])

        def follow(values: np.ndarray, close: np.ndarray, previous: np.ndarray) -> np.ndarray:
            future = previous * values[order] / close[order - 1]
            return np.concatenate([values[:cut], future])

        groups.append(Group(close=follow(close, close, previous), columns=group.columns))
        for name in group.columns:
            columns[name] = follow(frame[name].to_numpy(), close, previous)
    for name in frame.columns:
        if name not in columns:
            values = frame[name].to_numpy()
            columns[name] = np.concatenate([values[:cut], values[order]])
    changed = pd.DataFrame(columns, index=frame.index)[list(frame.columns)]
    return replace(data, frame=changed, groups=tuple(groups))


@dataclass(frozen=True, kw_only=True)
class Scale:
    """
    What is a usual value of each column.

    :param middle: The median.
    :param spread: How far from it values are; their standard deviation, mostly.
    """

    middle: np.ndarray
    spread: np.ndarray


def find_scale(features: np.ndarray) -> Scale:
    """
    Return what is usual for each column.

    A few outliers do not make it: what is small beside them is not small for the other rows.

    :param features: A row per row of data; NaN is left out.
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # a column without any value
        middle = np.nanmedian(features, axis=0)
        apart = np.abs(features - middle)
        apart[apart == 0] = np.nan
        spread = np.fmin(np.nanstd(features, axis=0), _USUAL_TIMES * np.nanmedian(apart, axis=0))
    return Scale(middle=np.nan_to_num(middle), spread=np.nan_to_num(spread, nan=0.0, posinf=0.0))


def compare_before(
    full: np.ndarray,
    other: np.ndarray,
    columns: Sequence[str],
    cut: int,
    how: str,
    *,
    scale: Scale | None = None,
    first: int = 0,
) -> list[Leak]:
    """
    Return one leak per column that differs before the cut.

    :param full: Features of the data as they are.
    :param other: Features of the data changed from ``cut`` on.
    :param columns: Names of the columns of both.
    :param cut: First changed row.
    :param how: How they were changed.
    :param scale: Of each column; see :func:`find_scale`. Differences that are small beside it are
        what is lost of a number of limited length.
    :param first: The row that both begin with.
    """
    left, right = full[: cut - first], other[: cut - first]
    if np.array_equal(left, right, equal_nan=True):
        return []
    tolerance = ABSOLUTE_TOLERANCE + RELATIVE_TOLERANCE * np.abs(left)
    if scale is not None:
        # What is far from the usual is rounded more coarsely.
        tolerance += SCALE_TOLERANCE * (scale.spread + np.abs(left - scale.middle))
    with np.errstate(invalid="ignore"):
        same = np.abs(left - right) <= tolerance
    same |= np.isnan(left) & np.isnan(right)
    leaks = []
    for position in map(int, np.flatnonzero(~same.all(axis=0))):
        rows = np.flatnonzero(~same[:, position])
        row = int(rows[-1])
        leaks.append(
            Leak(
                column=columns[position],
                row=first + row,
                depth=cut - first - int(rows[0]),
                cut=cut,
                how=how,
                before=float(left[row, position]),
                after=float(right[row, position]),
            )
        )
    return leaks


def find_leaks(
    full: np.ndarray,
    data: MarketData,
    columns: Sequence[str],
    cuts: Sequence[int],
    compute: Callable[[pd.DataFrame], np.ndarray],
    rng: np.random.Generator,
) -> list[Leak]:
    """Try every cut both ways and return all leaks; ``compute`` makes features of given data."""
    leaks: list[Leak] = []
    for cut in cuts:
        dropped = compute(data.frame.iloc[:cut])
        leaks += compare_before(full, dropped, columns, cut, DROPPED)
        replaced = compute(replace_future(data, cut, rng).frame)
        leaks += compare_before(full, replaced, columns, cut, REPLACED)
    return leaks


def explain(leaks: Sequence[Leak], data: pd.DataFrame, warm_up: int) -> str:
    """
    Put the worst leak in one line: column, time, both values, the cut, and the likely cause.

    :param leaks: At least one.
    :param data: The data, for the days.
    :param warm_up: Rows of warm-up, which no leak can reach.
    """
    by_column: dict[str, list[Leak]] = {}
    for leak in leaks:
        by_column.setdefault(leak.column, []).append(leak)
    column = max(by_column, key=lambda name: (len(by_column[name]), name))
    leak = by_column[column][0]
    others = f" (and {len(by_column) - 1} more columns)" if len(by_column) > 1 else ""
    before, after = format_two(leak.before, leak.after)
    return (
        f"look-ahead: column {show(column)} at {format_time(data, leak.row)} changes from "
        f"{before} to {after} when the rows from {format_time(data, leak.cut)} "
        f"on {leak.how}, likely cause: {_guess_cause(by_column[column], warm_up)}{others}; "
        "compute each row from the rows up to it"
    )


def format_two(first: float, second: float) -> tuple[str, str]:
    """Return two numbers that differ with as many digits as it takes to see it; six at least."""
    for digits in (6, 9, 12, 17):
        texts = f"{first:.{digits}g}", f"{second:.{digits}g}"
        if texts[0] != texts[1]:
            break
    return texts


def _guess_cause(leaks: Sequence[Leak], warm_up: int) -> str:
    # Of both ways of a cut the deeper one counts: a dropped row can leave NaN for NaN.
    depths: dict[int, int] = {}
    for leak in leaks:
        depths[leak.cut] = max(leak.depth, depths.get(leak.cut, 0))
    # A statistic of all rows reaches back as far as there are values, whatever the cut.
    is_all = all(depth >= (cut - warm_up) * 0.9 for cut, depth in depths.items())
    if is_all or max(depths.values()) > _MOST_FILLED:
        return "a statistic of the whole sample (mean, standard deviation, rank, filter)"
    deepest, shallowest = max(depths.values()), min(depths.values())
    if deepest == shallowest and len(depths) > 1:
        rows = "1 row of the future is" if deepest == 1 else f"{deepest} rows of the future are"
        return f"{rows} read (a centred window, or a target)"
    rows = "1 row is" if deepest == 1 else f"up to {deepest} rows are"
    return f"{rows} filled from later ones (backfill, or resampling to a longer period)"
