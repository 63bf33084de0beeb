"""The reference feature set: momentum, volatility and volume of both indices."""

from __future__ import annotations

import numpy as np
import pandas as pd


def build_features(data: pd.DataFrame) -> pd.DataFrame:
    """
    Return features that need the past only.

    :param data: Market data: ``open high low close adj_close volume`` and the same with the
        prefix ``nasdaq_``, one row a day.
    """
    features = {}
    for prefix in ("", "nasdaq_"):
        close = data[prefix + "close"]
        returns = np.log(close).diff()
        volatility = returns.rolling(21).std()
        for window in (1, 5, 21, 63):
            change = np.log(close).diff(window)
            features[f"{prefix}momentum_{window}"] = change / (volatility * np.sqrt(window))
        features[f"{prefix}volatility_ratio"] = np.log(returns.rolling(5).std() / volatility)
        features[f"{prefix}range"] = np.log(data[prefix + "high"] / data[prefix + "low"])
        volume = np.log(data[prefix + "volume"])
        features[f"{prefix}volume_surprise"] = volume - volume.rolling(21).mean()
    features["spread"] = features["momentum_21"] - features["nasdaq_momentum_21"]
    return pd.DataFrame(features, index=data.index)
