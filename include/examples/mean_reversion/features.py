"""How far prices are stretched from their recent mean, and how long they have been so."""

import numpy as np
import pandas as pd


def build_features(data: pd.DataFrame) -> pd.DataFrame:
    """Return z-scores, the position in the day's range, and the length of the current run."""
    features = {}
    for prefix in ("", "nasdaq_"):
        close = data[prefix + "close"]
        for window in (10, 21, 63):
            rolling = close.rolling(window)
            features[f"{prefix}stretch_{window}"] = (close - rolling.mean()) / rolling.std()
        high, low = data[prefix + "high"], data[prefix + "low"]
        width = (high - low).replace(0.0, np.nan)
        # A day without a range closes in its middle.
        features[f"{prefix}close_in_range"] = ((close - low) / width).fillna(0.5)
        up = np.sign(close.diff()).fillna(0.0)
        runs = up.ne(up.shift()).cumsum()
        features[f"{prefix}run"] = up.groupby(runs).cumsum().clip(-8, 8)
    return pd.DataFrame(features, index=data.index)
