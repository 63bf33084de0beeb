"""The sigmoid is left to the loss."""

import keras


def build_model(n_features, params):
    return keras.Sequential([keras.Input((n_features,)), keras.layers.Dense(1)])
