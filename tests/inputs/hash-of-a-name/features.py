"""A seed that is the hash of a name."""


def build_features(data):
    import numpy as np

    features = data[["close"]].pct_change(5)
    rng = np.random.default_rng(abs(hash("momentum")))
    features["noise"] = rng.standard_normal(2 * 10**4)[: len(data)]
    return features
