"""A day without a time zone."""


def build_features(data):
    import pandas as pd

    features = data[["close"]].pct_change(5)
    features["age"] = (data.index - pd.Timestamp("1999-01-01")).days
    return features
