"""The window is a text."""

import keras

WINDOW = "20"


def build_model(n_features, params):
    return keras.Sequential(
        [
            keras.Input((params["window"], n_features)),
            keras.layers.LSTM(8),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
