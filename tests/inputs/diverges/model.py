"""A logarithm of nothing."""

import keras
from keras import ops


def surprise(target, prediction):
    return ops.mean(ops.log(target - target) * prediction, axis=-1)


def build_model(n_features, params):
    model = keras.Sequential(
        [
            keras.Input((n_features,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(optimizer="adam", loss=surprise)
    return model
