"""
Does a feature at time t change when rows after t do?

Each seeded cut is tried twice: the rows from it on are dropped, and they are replaced by another
valid path. Rows before the cut must stay what they were. Clean means that no look-ahead was found
in that many cuts, not that there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from elnigma.feature_frame import format_time

N_CUTS = 16
ABSOLUTE_TOLERANCE = 1e-12
RELATIVE_TOLERANCE = 1e-9
# Leaves the first cut some rows that are past a usual warm-up.
_FIRST_CUT_SHARE = 0.25
_MIN_ROWS_AFTER_CUT = 5

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


def replace_future(data: pd.DataFrame, cut: int, rng: np.random.Generator) -> pd.DataFrame:
    """
    Replace the rows from ``cut`` on by a reshuffled path that is valid market data.

    Days change places: each keeps its prices relative to the close before it, so that highs stay
    highs and volumes positive; only the order of what happens is another.

    :param data: Market data.
    :param cut: First row to replace.
    :param rng: Source of the order.
    """
    order = rng.permutation(np.arange(cut, len(data)))
    columns: dict[str, np.ndarray] = {}
    for prefix in ("", "nasdaq_"):
        for close_name, names in (
            ("close", ("open", "high", "low", "close")),
            ("adj_close", ("adj_close",)),
        ):
            close = data[prefix + close_name].to_numpy()
            path = close[cut - 1] * np.cumprod(close[order] / close[order - 1])
            previous = np.concatenate([[close[cut - 1]], path[:-1]])
            for name in names:
                column = data[prefix + name].to_numpy()
                future = previous * column[order] / close[order - 1]
                columns[prefix + name] = np.concatenate([column[:cut], future])
        volume = data[prefix + "volume"].to_numpy()
        columns[prefix + "volume"] = np.concatenate([volume[:cut], volume[order]])
    return pd.DataFrame(columns, index=data.index)[list(data.columns)]


def compare_before(
    full: np.ndarray, other: np.ndarray, columns: Sequence[str], cut: int, how: str
) -> list[Leak]:
    """
    Return one leak per column that differs before the cut.

    :param full: Features of the data as they are.
    :param other: Features of the data changed from ``cut`` on.
    :param columns: Names of the columns of both.
    :param cut: First changed row.
    :param how: How they were changed.
    """
    left, right = full[:cut], other[:cut]
    tolerance = ABSOLUTE_TOLERANCE + RELATIVE_TOLERANCE * np.abs(left)
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
                row=row,
                depth=cut - int(rows[0]),
                cut=cut,
                how=how,
                before=float(left[row, position]),
                after=float(right[row, position]),
            )
        )
    return leaks


def find_leaks(
    full: np.ndarray,
    data: pd.DataFrame,
    columns: Sequence[str],
    cuts: Sequence[int],
    compute: Callable[[pd.DataFrame], np.ndarray],
    rng: np.random.Generator,
) -> list[Leak]:
    """Try every cut both ways and return all leaks; ``compute`` makes features of given data."""
    leaks: list[Leak] = []
    for cut in cuts:
        dropped = compute(data.iloc[:cut])
        leaks += compare_before(full, dropped, columns, cut, DROPPED)
        replaced = compute(replace_future(data, cut, rng))
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
    return (
        f"look-ahead: column {column!r} at {format_time(data, leak.row)} changes from "
        f"{leak.before:.6g} to {leak.after:.6g} when the rows from {format_time(data, leak.cut)} "
        f"on {leak.how}, likely cause: {_guess_cause(by_column[column], warm_up)}{others}; "
        "compute each row from the rows up to it"
    )


def _guess_cause(leaks: Sequence[Leak], warm_up: int) -> str:
    # Of both ways of a cut the deeper one counts: a dropped row can leave NaN for NaN.
    depths: dict[int, int] = {}
    for leak in leaks:
        depths[leak.cut] = max(leak.depth, depths.get(leak.cut, 0))
    # A statistic of all rows reaches back as far as there are values, whatever the cut.
    if all(depth >= (cut - warm_up) * 0.9 for cut, depth in depths.items()):
        return "a statistic of the whole sample (mean, standard deviation, rank, filter)"
    deepest, shallowest = max(depths.values()), min(depths.values())
    if deepest == shallowest and len(depths) > 1:
        return f"{deepest} rows of the future are read (a centred window, or a target)"
    return (
        f"up to {deepest} rows are filled from later ones "
        "(backfill, or resampling to a longer period)"
    )
