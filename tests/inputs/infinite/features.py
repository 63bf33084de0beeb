"""A division by nothing."""


def build_features(data):
    features = data[["close"]].pct_change(5)
    features["ratio"] = 1 / (data["volume"] - data["volume"].iloc[100])
    return features
