"""The imaginary part of a Fourier transform would be lost."""


def build_features(data):
    import numpy as np

    features = data[["close"]].pct_change(5)
    features["phase"] = np.exp(1j * np.arange(len(data)))
    return features
