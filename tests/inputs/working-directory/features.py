"""A file that happens to be where the process is."""


def build_features(data):
    import os

    features = data[["close"]].pct_change(5)
    features["root"] = float(os.getcwd() == "/")
    return features
