"""Numbers, read from a file as text."""


def build_features(data):
    features = data[["close"]].pct_change(5)
    features["month"] = data.index.strftime("%m")
    return features
