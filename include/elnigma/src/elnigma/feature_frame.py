"""What a feature set must return, and the one way in which it is called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from elnigma.errors import SubmissionError
from elnigma.loading import explained

FeatureFunction = Callable[[pd.DataFrame], pd.DataFrame]

MAX_COLUMNS = 512
# Two years and a bit: enough for a one-year window of a one-year window's change.
MAX_WARM_UP_ROWS = 600


def compute_features(function: FeatureFunction, data: pd.DataFrame, folder: Path | None) -> Any:
    """
    Call a feature set on its own copy of the data.

    :param function: The submitted ``build_features``.
    :param data: Market data; the function may change what it is given.
    :param folder: The submission's folder, to name the failing line.
    :raises SubmissionError: If it raises.
    """
    with explained(folder):
        return function(data.copy())


def check_frame(features: Any, data: pd.DataFrame) -> pd.DataFrame:
    """
    Check type, shape, index and columns, and return the features as ``float64``.

    :param features: What ``build_features`` returned.
    :param data: What it was given.
    :raises SubmissionError: With the first thing that is wrong.
    """
    if not isinstance(features, pd.DataFrame):
        raise SubmissionError(
            f"wrong type: build_features must return a pandas.DataFrame, not "
            f"{type(features).__name__}"
        )
    if len(features) != len(data):
        raise SubmissionError(
            f"wrong shape: build_features returned {len(features)} rows for {len(data)} of data"
        )
    if not features.index.equals(data.index):
        raise SubmissionError("wrong index: the features must keep the index of the data")
    if not 1 <= features.shape[1] <= MAX_COLUMNS:
        raise SubmissionError(
            f"wrong shape: {features.shape[1]} columns; 1 to {MAX_COLUMNS} are allowed"
        )
    names = [str(column) for column in features.columns]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SubmissionError(f"wrong columns: {twice!r} stands there more than once")
    try:
        numbers = features.astype("float64")
    except (TypeError, ValueError) as error:
        raise SubmissionError(f"wrong type: features must be numbers ({error})") from error
    numbers.columns = pd.Index(names)
    infinite = np.isinf(numbers.to_numpy())
    if infinite.any():
        row, column = map(int, np.argwhere(infinite)[0])
        raise SubmissionError(
            f"infinite values: column {names[column]!r} is infinite at {format_time(data, row)}"
        )
    return numbers


def find_warm_up(features: pd.DataFrame) -> int:
    """
    Return how many leading rows hold NaN in some column.

    :raises SubmissionError: If NaN stands anywhere else, or the warm-up leaves too little.
    """
    missing = features.isna().to_numpy()
    starts = []
    for position, name in enumerate(features.columns):
        column = missing[:, position]
        if column.all():
            raise SubmissionError(f"NaN values: column {name!r} is NaN throughout")
        start = int(np.argmin(column))
        later = np.flatnonzero(column[start:])
        if later.size:
            raise SubmissionError(
                f"NaN values: column {name!r} is NaN in {later.size} rows after its warm-up of "
                f"{start} rows, first at {format_time(features, start + int(later[0]))}"
            )
        starts.append(start)
    warm_up = max(starts)
    if warm_up > MAX_WARM_UP_ROWS:
        slowest = features.columns[int(np.argmax(starts))]
        raise SubmissionError(
            f"NaN values: column {slowest!r} needs {warm_up} rows to warm up; "
            f"{MAX_WARM_UP_ROWS} are allowed"
        )
    return warm_up


def format_time(frame: pd.DataFrame, row: int) -> str:
    """Return the day of a row."""
    return str(frame.index[row].date())
