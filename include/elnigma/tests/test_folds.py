"""Forward folds are rows alone: the keys that say which are those that there have always been."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from conftest import Run
from elnigma.config import build_config
from elnigma.data import load_market_data
from elnigma.errors import ConfigError
from elnigma.split import build_split

RunAttempt = Callable[..., Run]
FAST = (
    *("train", "--config", "fast.toml", "--prediction-interval", "5"),
    *("--config_override", "training.epochs=1", "--config_override", "backtest.n_resamples=100"),
)
FIVE = (
    ("2004-01-01", "2005-01-01", "2007-12-31"),
    ("2007-01-01", "2008-01-01", "2010-12-31"),
    ("2010-01-01", "2011-01-01", "2013-12-31"),
    ("2013-01-01", "2014-01-01", "2015-12-31"),
    ("2015-01-01", "2016-01-01", ""),
)
"""What the control plane makes of folds from 2005, 2008, 2011, 2014 and 2016."""


def list_overrides(validation_from: str, test_from: str, test_to: str) -> list[str]:
    found = [f"split.validation_from={validation_from}", f"split.test_from={test_from}"]
    return found + ([f"split.test_to={test_to}"] if test_to else [])


@pytest.mark.parametrize("horizon", [1, 5, 20])
def test_five_folds_share_no_judged_row_and_learn_only_from_what_came_before(horizon: int) -> None:
    close = load_market_data().close
    target = close.shift(-horizon) / close - 1
    # What the slowest of the built-in features need.
    usable = np.arange(len(close)) >= 600
    splits = [
        build_split(target, usable, horizon, build_config("fast.toml", (), list_overrides(*each)))
        for each in FIVE
    ]

    judged = np.concatenate([each.test for each in splits])
    assert (np.diff(judged) > 0).all()
    # Without a hole: each row from the first one on, but for those whose outcome is not known yet.
    assert (np.diff(judged) == 1).all()
    assert len(judged) == 3523 - horizon
    for each in splits:
        # An outcome is known before the next part begins.
        assert each.train[-1] + horizon < each.validation[0]
        assert each.validation[-1] + horizon < each.test[0]
    for before, after in pairwise(splits):
        assert after.test[0] == before.test[-1] + 1


def test_the_first_fold_that_leaves_too_little_to_learn_from_says_so() -> None:
    close = load_market_data().close
    config = build_config("fast.toml", (), list_overrides("2001-01-01", "2002-01-01", "2004-12-31"))
    with pytest.raises(ConfigError, match=r"training rows, at least 500 .*of folds, a later first"):
        build_split(close.shift(-5) / close - 1, np.arange(len(close)) >= 600, 5, config)


def test_two_folds_train_and_each_predicts_its_own_rows(run_attempt: RunAttempt) -> None:
    frames = []
    for number, rows in enumerate((FIVE[0], FIVE[1])):
        overrides = [word for each in list_overrides(*rows) for word in ("--config_override", each)]
        run = run_attempt(*FAST, *overrides, name=f"f{number}", TASK_ID=f"i5-f{number}")
        assert run.exit_code == 0, run.console
        assert run.result["task_id"] == f"i5-f{number}"
        assert run.result["split"]["test"]["first"][:10] >= rows[1]
        assert run.result["split"]["test"]["last"][:10] <= rows[2]
        frames.append(pd.read_csv(run.out / "predictions.csv"))
    first, second = (frame[frame.part == "test"].time.str[:10] for frame in frames)
    assert (first.iloc[0], first.iloc[-1]) == ("2005-01-03", "2007-12-31")
    assert (second.iloc[0], second.iloc[-1]) == ("2008-01-02", "2010-12-31")
    assert not set(first) & set(second)
