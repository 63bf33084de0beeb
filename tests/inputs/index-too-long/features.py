"""A row for tomorrow."""


def build_features(data):
    import pandas as pd

    returns = data[["close"]].pct_change(5)
    returns.loc[returns.index[-1] + pd.Timedelta(days=1)] = 0.0
    return returns
