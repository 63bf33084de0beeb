"""Momentum of the S&P 500 over several windows, in units of its own volatility."""

import numpy as np
import pandas as pd

WINDOWS = (5, 21, 63, 126)


def build_features(data: pd.DataFrame) -> pd.DataFrame:
    """Return one column per window."""
    log_close = np.log(data["close"])
    volatility = log_close.diff().rolling(21).std()
    return pd.DataFrame(
        {
            f"momentum_{window}": log_close.diff(window) / (volatility * np.sqrt(window))
            for window in WINDOWS
        },
        index=data.index,
    )
