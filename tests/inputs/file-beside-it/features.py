"""A file beside it, by its bare name."""


def build_features(data):
    import pandas as pd

    weights = pd.read_csv("weights.csv")
    return data[["close"]].pct_change(5) * weights.iloc[0, 0]
