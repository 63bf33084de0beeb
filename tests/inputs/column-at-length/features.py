"""A formula for a name."""


def build_features(data):
    returns = data[["close"]].pct_change(5)
    return returns.rename(columns={"close": "close / " * 100})
