"""
Worlds with another future: what a feature knows there, it has not from its data.

In each world the judged rows are other bars, drawn at random, so that no row tells anything of the
rows behind it. Three questions are asked of features computed there:

- Do they know the outcomes of such a world? Then they read its later rows.
- Do they, averaged over the worlds, know the outcomes of the real one? Then they have them from
  somewhere else: from a table, a file or a package.
- Which single rows follow what comes after them, over all worlds? Few rows are found by no cut that
  is drawn at random: those that look most like it get cuts of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from elnigma.data import Follower, MarketData
from elnigma.errors import SubmissionError
from elnigma.feature_frame import format_time, show
from elnigma.validation.look_ahead import rearrange

N_WORLDS = 16
N_PLACEBOS = 2
"""Of these, how many must all be known, so that none is known by chance."""
N_SUSPECTS = 8
HORIZONS = (1, 5, 20)
MIN_CORRELATION = 0.05
PLACEBO_T = 4.0
REAL_T = 5.0
_ROWS_AT_ONCE = 4096
"""More would take memory for each thing that follows."""
_ADVICE = "compute each row from the rows up to it"


@dataclass(frozen=True, kw_only=True)
class World:
    """
    One world.

    :param data: Market data; the rows before the judged ones are as they are.
    :param outcomes: By horizon: the return over so many rows, from each judged row.
    :param followers: What follows each judged row in several respects, one a column.
    """

    data: MarketData
    outcomes: dict[int, np.ndarray]
    followers: np.ndarray


def build_world(data: MarketData, first: int, rng: np.random.Generator) -> World:
    """
    Draw other bars for the judged rows.

    :param data: Market data.
    :param first: The first judged row.
    :param rng: Source of the bars.
    """
    rows = len(data.frame)
    # Drawn with replacement: where each bar came once, the end would be known from the beginning.
    order = rng.integers(data.first_whole, rows, rows - first)
    other = rearrange(data, first, order)
    return World(
        data=other, outcomes=find_outcomes(other, first), followers=_find_followers(other, first)
    )


def find_outcomes(data: MarketData, first: int) -> dict[int, np.ndarray]:
    """
    Return the outcomes of the judged rows by horizon; NaN where there are none yet.

    :param data: Market data.
    :param first: The first judged row.
    """
    close = data.close
    return {horizon: (close.shift(-horizon) / close - 1).to_numpy()[first:] for horizon in HORIZONS}


def _find_followers(data: MarketData, first: int) -> np.ndarray:
    close = data.close
    others = [pd.Series(data.groups[at].close, index=close.index) for at in data.references]
    columns = [
        *(close.shift(-horizon) / close for horizon in HORIZONS),
        *(other.shift(-1) / other for other in others),
        *(_follow(data.frame, follower) for follower in data.followers),
    ]
    return np.column_stack([column.to_numpy()[first:] for column in columns])


def _follow(frame: pd.DataFrame, follower: Follower) -> pd.Series:
    following = frame[follower.column].shift(-1)
    if follower.over is None:
        return following
    over = frame[follower.over]
    return following / (over.shift(-1) if follower.is_over_next else over)


def check_placebos(
    worlds: Sequence[World], features: Sequence[np.ndarray], columns: Sequence[str]
) -> None:
    """
    Refuse features that know the outcomes of worlds which nothing in them tells of.

    :param worlds: All of them must be known.
    :param features: Of each world, its judged rows.
    :param columns: Names of the columns.
    :raises SubmissionError: With the column and how well it knows them.
    """
    for horizon in HORIZONS:
        found = [
            correlate(values, world.outcomes[horizon])
            for world, values in zip(worlds, features, strict=True)
        ]
        correlations = np.array([correlation for correlation, _ in found])
        weights = np.array([[np.sqrt(rows / horizon)] for _, rows in found])
        known = (np.abs(correlations) > MIN_CORRELATION) & (
            np.abs(correlations) * weights > PLACEBO_T
        )
        # Which way it goes is the same, if it is no chance.
        is_same = np.abs(np.sign(correlations).sum(axis=0)) == len(worlds)
        guilty = known.all(axis=0) & is_same
        if guilty.any():
            at = _find_worst(guilty, correlations[0])
            raise SubmissionError(
                f"look-ahead: column {show(columns[at])} knows outcomes of days drawn at random, "
                f"with rank correlations of {correlations[0, at]:.3f} and "
                f"{correlations[1, at]:.3f} to the next {_count(horizon)}, likely cause: later "
                f"rows are read; {_ADVICE}"
            )


def check_real_outcomes(
    mean: np.ndarray, data: MarketData, first: int, columns: Sequence[str]
) -> None:
    """
    Refuse features that know outcomes which they were not given.

    :param mean: Features of the judged rows, averaged over worlds: what comes of the data of one
        is gone, and what comes from somewhere else is left.
    :param data: The real market data.
    :param first: The first judged row.
    :param columns: Names of the columns.
    :raises SubmissionError: With the column, how well it knows them, and where it is most plain.
    """
    for horizon, outcome in find_outcomes(data, first).items():
        correlations, rows = correlate(mean, outcome)
        guilty = (np.abs(correlations) > MIN_CORRELATION) & (
            np.abs(correlations) * np.sqrt(rows / horizon) > REAL_T
        )
        if guilty.any():
            at = _find_worst(guilty, correlations)
            row = int(np.nanargmax(np.abs(outcome)))
            raise SubmissionError(
                f"look-ahead: column {show(columns[at])} knows outcomes it was not given: computed "
                f"from other prices, it has a rank correlation of {correlations[at]:.3f} to the "
                f"real next {_count(horizon)} (at {format_time(data.frame, first + row)} it is "
                f"{mean[row, at]:.6g}, the return {outcome[row]:.6g}), likely cause: they are read "
                "from a table, a file or a package; compute from what the function is given"
            )


def find_suspects(worlds: Sequence[World], features: Sequence[np.ndarray]) -> list[int]:
    """
    Return the judged rows whose features follow most closely what comes after them.

    :param worlds: All of them.
    :param features: Of each world, its judged rows.
    :return: Numbers of judged rows, increasing. They are innocent until a cut behind them shows
        something.
    """
    parts = []
    for begin in range(0, len(features[0]), _ROWS_AT_ONCE):
        some = slice(begin, begin + _ROWS_AT_ONCE)
        values = _standardise(np.stack([each[some] for each in features]).astype("float32"))
        following = np.stack([world.followers[some] for world in worlds])
        followers = _standardise(following.astype("float32"))
        # Over the worlds, for each row: a column's correlation with each thing that follows.
        shared = np.einsum("wrc,wrf->rcf", values, followers, optimize=True)
        parts.append(np.abs(np.nan_to_num(shared)).max(axis=(1, 2)))
    strength = np.concatenate(parts)
    # The last row has nothing behind it.
    strongest = np.argsort(-strength[:-1], kind="stable")[:N_SUSPECTS]
    return sorted(int(row) for row in strongest)


def correlate(features: np.ndarray, outcome: np.ndarray) -> tuple[np.ndarray, int]:
    """
    Return the rank correlation of each column with an outcome, and of how many rows.

    :param features: A row per row of the outcome.
    :param outcome: NaN where there is none.
    """
    known = np.isfinite(outcome)
    ranks = pd.Series(outcome[known]).rank().to_numpy(copy=True)
    ordered = pd.DataFrame(np.nan_to_num(features[known])).rank().to_numpy(copy=True)
    ordered -= ordered.mean(axis=0)
    ranks -= ranks.mean()
    size = np.sqrt((ordered**2).sum(axis=0) * (ranks**2).sum())
    with np.errstate(all="ignore"):
        correlations = np.where(size > 0, ordered.T @ ranks / size, 0.0)
    return correlations, int(known.sum())


def _standardise(values: np.ndarray) -> np.ndarray:
    """Return values with mean 0 and length 1 over the worlds; what is the same in all is 0."""
    with np.errstate(all="ignore"):
        apart = values - values.mean(axis=0)
        size = np.sqrt((apart**2).sum(axis=0))
        floor = 1e-6 * np.abs(values).max(axis=0)
        return np.where(size > floor, apart / size, np.float32(0))


def _find_worst(guilty: np.ndarray, correlations: np.ndarray) -> int:
    return int(np.argmax(np.where(guilty, np.abs(correlations), 0.0)))


def _count(horizon: int) -> str:
    return "row's return" if horizon == 1 else f"{horizon} rows' return"
