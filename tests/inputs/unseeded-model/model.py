"""Weights of a generator that nobody has seeded."""

import keras
import numpy as np


def build_model(n_features, params):
    model = keras.Sequential(
        [keras.Input((n_features,)), keras.layers.Dense(1, activation="sigmoid")]
    )
    weights = np.random.default_rng().standard_normal((n_features, 1)) * 0.1
    model.layers[0].set_weights([weights, np.zeros(1)])
    return model
