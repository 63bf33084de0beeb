"""A rate of nothing at first."""

import keras
from keras import ops


def hit_rate(target, prediction):
    sure = ops.cast(prediction > 0.9999, "float32")
    return ops.sum(target * sure) / ops.sum(sure)


def build_model(n_features, params):
    model = keras.Sequential(
        [
            keras.Input((n_features,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=[hit_rate])
    return model
