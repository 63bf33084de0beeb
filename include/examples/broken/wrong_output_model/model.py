"""Ends without a sigmoid: what it predicts is no probability."""

import keras


def build_model(n_features: int, params: dict) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input(shape=(n_features,)),
            keras.layers.Dense(params["units"], activation="relu"),
            keras.layers.Dense(1, kernel_initializer=keras.initializers.RandomNormal(stddev=5.0)),
        ]
    )
