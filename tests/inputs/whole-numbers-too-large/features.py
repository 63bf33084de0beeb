"""Identifiers of 54 bits."""


def build_features(data):
    features = data[["close"]].pct_change(5)
    features["id"] = range(2**53, 2**53 + len(data))
    return features
