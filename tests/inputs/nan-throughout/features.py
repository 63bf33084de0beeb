"""A name that is misspelt, and filled."""


def build_features(data):
    features = data[["close"]].pct_change(5)
    features["volumne"] = data.get("volumne", float("nan"))
    return features
