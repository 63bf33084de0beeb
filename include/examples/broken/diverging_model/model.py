"""Compiles itself with a step size under which no loss stays a number."""

import keras


def build_model(n_features: int, params: dict) -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input(shape=(n_features,)),
            keras.layers.Dense(params["units"], activation="relu"),
            keras.layers.Dense(1),
        ]
    )
    model.compile(optimizer=keras.optimizers.SGD(learning_rate=1e20), loss="mse")
    return model
