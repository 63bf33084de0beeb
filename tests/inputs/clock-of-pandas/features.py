"""The weekday of today."""


def build_features(data):
    import pandas as pd

    features = data[["close"]].pct_change(5)
    features["today"] = float(pd.Timestamp.now().dayofyear)
    return features
