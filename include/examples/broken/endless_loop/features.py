"""Waits for a convergence that never comes."""

import pandas as pd


def build_features(data: pd.DataFrame) -> pd.DataFrame:
    smooth = data["close"]
    while smooth.diff().abs().max() >= 0:
        smooth = smooth.ewm(span=3).mean()
    return smooth.to_frame()
