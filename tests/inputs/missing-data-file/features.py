"""A file of its author"s machine."""


def build_features(data):
    import pandas as pd

    weights = pd.read_csv("/nowhere/weights.csv")
    return data[["close"]].pct_change(5) * weights.iloc[0, 0]
