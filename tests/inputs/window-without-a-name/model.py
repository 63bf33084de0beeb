"""A window is taken, and nobody is told."""

import keras


def build_model(n_features, params):
    return keras.Sequential(
        [
            keras.Input((20, n_features)),
            keras.layers.LSTM(8),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
