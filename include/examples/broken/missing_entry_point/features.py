"""Has a function, but not the one that is called."""

import pandas as pd


def make_features(data: pd.DataFrame) -> pd.DataFrame:
    return data[["close"]].pct_change(5)
