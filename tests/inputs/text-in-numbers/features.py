"""A missing value as text."""


def build_features(data):
    features = data[["close"]].pct_change(5).astype(object)
    features.iloc[100, 0] = "n/a"
    return features
