"""Resamples to weeks and fills back: Monday knows Friday's close."""

import pandas as pd


def build_features(data: pd.DataFrame) -> pd.DataFrame:
    weekly = data["close"].resample("W-FRI").last()
    filled = weekly.reindex(data.index, method="bfill").fillna(data["close"])
    return pd.DataFrame({"weekly": data["close"] / filled - 1}, index=data.index)
