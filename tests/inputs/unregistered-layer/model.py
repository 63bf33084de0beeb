"""A layer that no file can name."""

import keras
class Scale(keras.layers.Layer):
    def call(self, rows):
        return rows * 2.0


def build_model(n_features, params):
    return keras.Sequential(
        [keras.Input((n_features,)), Scale(), keras.layers.Dense(1, activation="sigmoid")]
    )
