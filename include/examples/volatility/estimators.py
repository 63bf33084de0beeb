"""Volatility of daily prices; a second file, to show that a feature set may have several."""

import numpy as np
import pandas as pd


def close_to_close(prices: pd.DataFrame, window: int) -> pd.Series:
    """Return the standard deviation of log returns."""
    return np.log(prices["close"]).diff().rolling(window).std()


def parkinson(prices: pd.DataFrame, window: int) -> pd.Series:
    """Return the volatility that the daily ranges tell, after Parkinson (1980)."""
    squared = np.log(prices["high"] / prices["low"]) ** 2
    return np.sqrt(squared.rolling(window).mean() / (4 * np.log(2)))
