"""The root of a negative return."""


def build_features(data):
    import numpy as np

    returns = data[["close"]].pct_change(5)
    with np.errstate(invalid="ignore"):
        return np.sqrt(returns)
