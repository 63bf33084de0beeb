"""Forward split into training, validation and test rows, with an embargo of one horizon."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from elnigma.config import Config, is_day, read_moment
from elnigma.errors import ConfigError

MIN_TRAIN_ROWS = 500
MIN_ROWS = 60


@dataclass(frozen=True, kw_only=True)
class Split:
    """
    Row numbers of each part, increasing.

    :param train: Rows that are fitted.
    :param validation: Rows that stop the training and scale the positions.
    :param test: Rows that are scored.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def find_borders(index: pd.Index, config: Config) -> tuple[int, int, int]:
    """
    Return the first validation row, the first test row, and the row behind the last one.

    :param index: Times of the data.
    :param config: Holds the borders.
    """
    first, middle = (
        int(index.searchsorted(pd.Timestamp(read_moment(config[f"split.{name}"]))))
        for name in ("validation_from", "test_from")
    )
    end = len(index)
    if text := config["split.test_to"]:
        # A day is in with all its bars, a time with the bar that has it.
        moment = pd.Timestamp(read_moment(text))
        last = moment + pd.Timedelta(days=1) if is_day(text) else moment
        end = int(index.searchsorted(last, side="left" if is_day(text) else "right"))
    return first, middle, end


def build_split(
    target: pd.Series, usable: np.ndarray, horizon: int, config: Config, window: int = 1
) -> Split:
    """
    Split rows by time; the last ``horizon`` rows before each border are left out.

    Their target reaches over the border: fitting them would read the next part's prices.

    :param target: Return over the next ``horizon`` rows; NaN where it is not known yet.
    :param usable: Whether a row's features are all there, those of its window included.
    :param horizon: Rows that a target looks ahead.
    :param config: Holds the borders.
    :param window: Rows of a window, to be named where there are too few.
    :raises ConfigError: If a part has too few rows.
    """
    days = target.index
    validation_from, test_from, end = find_borders(days, config)
    rows = np.flatnonzero(usable & target.notna().to_numpy())
    split = Split(
        train=rows[rows < validation_from - horizon],
        validation=rows[(rows >= validation_from) & (rows < test_from - horizon)],
        test=rows[(rows >= test_from) & (rows < end)],
    )
    advice = "name a later last day"
    if window > 1:
        advice = (
            f"a row counts when the {window - 1} rows before it are there as well: lower "
            f"model.window, which is {window}, or {advice}"
        )
    for name, part, least in (
        ("training", split.train, MIN_TRAIN_ROWS),
        ("validation", split.validation, MIN_ROWS),
        ("test", split.test, MIN_ROWS),
    ):
        if len(part) < least:
            if name == "training":
                advice += ", or a later split.validation_from; of folds, a later first one"
            raise ConfigError(
                f"split: {len(part)} {name} rows, at least {least} are needed; data end on "
                f"{days[-1].date()}, split.validation_from is {config['split.validation_from']}, "
                f"split.test_from is {config['split.test_from']}; {advice}"
            )
    return split
