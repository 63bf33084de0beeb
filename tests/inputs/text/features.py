"""A direction in words."""


def build_features(data):
    features = data[["close"]].pct_change(5)
    features["trend"] = ["up" if value > 0 else "down" for value in features["close"]]
    return features
