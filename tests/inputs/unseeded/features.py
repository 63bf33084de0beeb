"""A random number without a seed."""


def build_features(data):
    import numpy as np

    features = data[["close"]].pct_change(5)
    features["noise"] = np.random.default_rng().standard_normal(len(data))
    return features
