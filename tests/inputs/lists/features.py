"""A list in each row."""


def build_features(data):
    features = data[["close"]].pct_change(5)
    features["window"] = [[1, 2]] * len(data)
    return features
