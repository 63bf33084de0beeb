"""A span of time is no number."""


def build_features(data):
    features = data[["close"]].pct_change(5)
    features["gap"] = data.index.to_series().diff()
    return features
