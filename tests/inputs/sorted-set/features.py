"""A set, in an order."""


def build_features(data):
    return data[sorted({"open", "high", "low", "close"})].pct_change(5)
