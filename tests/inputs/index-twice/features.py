"""A row stands there twice."""


def build_features(data):
    import pandas as pd

    returns = data[["close"]].pct_change(5)
    return pd.concat([returns.iloc[:1], returns.iloc[:-1]])
