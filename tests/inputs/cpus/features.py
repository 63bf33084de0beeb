"""A way of its own where there is one CPU."""


def build_features(data):
    import os

    features = data[["close"]].pct_change(5)
    features["single"] = float(os.cpu_count() == 1)
    return features
