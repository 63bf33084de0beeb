"""A ticker beside the day."""

import pandas as pd


def build_features(data):
    returns = data[["close"]].pct_change(5)
    return pd.concat({"SPX": returns}, names=["ticker"])
