"""Two joined frames share a name."""


def build_features(data):
    import pandas as pd

    returns = data[["close"]].pct_change(5)
    return pd.concat([returns, returns * 2], axis=1)
