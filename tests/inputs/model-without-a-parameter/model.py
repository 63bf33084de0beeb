"""A parameter that nobody has set."""

import keras


def build_model(n_features, params):
    return keras.Sequential(
        [
            keras.Input((n_features,)),
            keras.layers.Dense(params["hidden"], activation="relu"),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
