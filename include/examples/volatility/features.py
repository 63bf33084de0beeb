"""The state of volatility: its level, its slope, and how the two indices compare."""

import numpy as np
import pandas as pd
from estimators import close_to_close, parkinson


def build_features(data: pd.DataFrame) -> pd.DataFrame:
    """Return log volatilities, their changes, and an expanding percentile."""
    features = {}
    for prefix in ("", "nasdaq_"):
        part = data[[prefix + name for name in ("high", "low", "close")]]
        part.columns = ["high", "low", "close"]
        fast = np.log(close_to_close(part, 10))
        slow = np.log(close_to_close(part, 63))
        features[f"{prefix}volatility"] = slow
        features[f"{prefix}slope"] = fast - slow
        features[f"{prefix}range_ratio"] = np.log(parkinson(part, 21)) - slow
        # Ranks among the past only: each row is compared with what was known on its day.
        features[f"{prefix}percentile"] = slow.expanding(252).rank(pct=True)
    features["spread"] = features["nasdaq_volatility"] - features["volatility"]
    return pd.DataFrame(features, index=data.index)
