"""A number that has no end."""


def build_features(data):
    features = data[["close"]].pct_change(5)
    features["factorial"] = [10**400] * len(data)
    return features
