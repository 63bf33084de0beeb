"""Columns with two levels."""


def build_features(data):
    import pandas as pd

    features = data[["close", "open"]].pct_change(5)
    features.columns = pd.MultiIndex.from_product([["momentum"], ["close", "open"]])
    return features
