"""Merges the return of the next five days, the very thing to be predicted."""

import pandas as pd


def build_features(data: pd.DataFrame) -> pd.DataFrame:
    target = (data["close"].shift(-5) / data["close"] - 1).rename("outcome")
    past = data[["close"]].pct_change(21).rename(columns={"close": "momentum"})
    return past.join(target.fillna(0.0))
