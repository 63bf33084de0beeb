"""A loss with one underscore too many."""

import keras


def build_model(n_features, params):
    model = keras.Sequential(
        [keras.Input((n_features,)), keras.layers.Dense(1, activation="sigmoid")]
    )
    model.compile(optimizer="adam", loss="binary_cross_entropy")
    return model
