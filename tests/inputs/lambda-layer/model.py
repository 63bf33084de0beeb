"""Code inside a layer."""

import keras


def build_model(n_features, params):
    return keras.Sequential(
        [
            keras.Input((n_features,)),
            keras.layers.Lambda(lambda rows: rows * 2.0),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
