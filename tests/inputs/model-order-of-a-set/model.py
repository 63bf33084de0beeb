"""Layers by a set of names."""

import keras


def build_model(n_features, params):
    layers = [keras.Input((n_features,))]
    layers += [keras.layers.Dense(len(name)) for name in {"alpha", "beta", "gamma", "epsilon", "mu"}]
    layers.append(keras.layers.Dense(1, activation="sigmoid"))
    return keras.Sequential(layers)
