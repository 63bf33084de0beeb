"""A generator that is seeded once, and goes on from call to call."""

import numpy as np

rng = np.random.default_rng(7)


def build_features(data):
    features = data[["close"]].pct_change(5)
    features["noise"] = rng.standard_normal(len(data))
    return features
