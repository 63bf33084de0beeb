"""A learning rate of the day."""

import keras
from datetime import UTC, datetime


def build_model(n_features, params):
    model = keras.Sequential(
        [
            keras.Input((n_features,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    rate = 1e-3 * datetime.now(UTC).timetuple().tm_yday
    model.compile(optimizer=keras.optimizers.SGD(rate), loss="binary_crossentropy")
    return model
