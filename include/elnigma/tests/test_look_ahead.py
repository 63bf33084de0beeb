"""The look-ahead test itself: it catches what it must, keeps what is clean, and names the cause."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from elnigma.data import MarketData, load_market_data
from elnigma.validation.look_ahead import (
    Leak,
    choose_cuts,
    compare_before,
    explain,
    find_leaks,
    replace_future,
)

Feature = Callable[[pd.DataFrame], pd.Series]


@pytest.fixture(scope="module")
def data() -> MarketData:
    return load_market_data("2010-12-31")


def _find(data: MarketData, feature: Feature, seed: int = 0) -> list[Leak]:
    def compute(part: pd.DataFrame) -> np.ndarray:
        return feature(part).to_numpy(dtype="float64")[:, None]

    rng = np.random.default_rng(seed)
    cuts = choose_cuts(len(data.frame), 63, rng)
    return find_leaks(compute(data.frame), data, ["x"], cuts, compute, rng)


CLEAN: dict[str, Feature] = {
    "rolling": lambda d: d["close"].rolling(21).mean(),
    "ewm": lambda d: d["close"].ewm(span=20).mean(),
    "expanding": lambda d: (
        (d["close"] - d["close"].expanding(20).mean()) / d["close"].expanding(20).std()
    ),
    "both-indices": lambda d: d["close"].pct_change() - d["nasdaq_close"].pct_change(),
}
LEAKY: dict[str, tuple[Feature, str]] = {
    "centred": (
        lambda d: d["close"].rolling(21, center=True, min_periods=1).mean(),
        "10 rows of the future",
    ),
    "shift": (lambda d: d["close"].shift(-3).ffill(), "3 rows of the future"),
    "rank": (lambda d: d["close"].rank(), "whole sample"),
    "fourier": (
        lambda d: pd.Series(
            np.fft.irfft(np.fft.rfft(d["close"].to_numpy())[:50], len(d)), index=d.index
        ),
        "whole sample",
    ),
    "nasdaq-tomorrow": (lambda d: d["nasdaq_close"].shift(-1).ffill(), "1 row of the future"),
    "weekly": (
        lambda d: d["close"].resample("W").last().reindex(d.index, method="bfill").ffill(),
        "filled from later ones",
    ),
}


@pytest.mark.parametrize("name", CLEAN)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_clean_feature_is_kept(data: MarketData, name: str, seed: int) -> None:
    assert _find(data, CLEAN[name], seed) == []


@pytest.mark.parametrize("name", LEAKY)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_leaky_feature_is_caught_and_its_cause_named(
    data: MarketData, name: str, seed: int
) -> None:
    feature, cause = LEAKY[name]
    leaks = _find(data, feature, seed)
    assert leaks
    assert cause in explain(leaks, data.frame, 63)


def test_the_explanation_names_column_day_both_values_and_cut(data: MarketData) -> None:
    leak = Leak(column="x", row=100, depth=3, cut=102, how="are removed", before=1.5, after=2.5)
    text = explain([leak], data.frame, 0)
    for part in (
        "'x'",
        str(data.frame.index[100].date()),
        "1.5",
        "2.5",
        str(data.frame.index[102].date()),
    ):
        assert part in text


def test_a_replaced_future_is_another_path_of_valid_prices(data: MarketData) -> None:
    replaced = replace_future(data, 1500, np.random.default_rng(0)).frame
    pd.testing.assert_frame_equal(replaced.iloc[:1500], data.frame.iloc[:1500])
    assert (replaced["high"] >= replaced["low"] * (1 - 1e-12)).all()
    assert (replaced > 0).all().all()
    assert np.isfinite(replaced.to_numpy()).all()
    assert not np.allclose(replaced["close"].iloc[1500:], data.frame["close"].iloc[1500:])


def test_a_value_that_turns_to_nan_is_a_difference() -> None:
    full, other = np.array([[1.0], [2.0]]), np.array([[1.0], [np.nan]])
    (leak,) = compare_before(full, other, ["x"], 2, "are removed")
    assert (leak.row, leak.depth) == (1, 1)


def test_rounding_noise_is_no_difference() -> None:
    full = np.array([[1e6], [1e-13]])
    assert compare_before(full, full * (1 + 1e-12), ["x"], 2, "are removed") == []
