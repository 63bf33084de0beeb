"""An LSTM that reads the last 20 rows, or as many as ``model.window`` says."""

import keras

WINDOW = 20


def build_model(n_features: int, params: dict) -> keras.Model:
    """Return an uncompiled model that maps a window of features to a probability."""
    return keras.Sequential(
        [
            keras.Input(shape=(params["window"], n_features)),
            keras.layers.LSTM(params["units"]),
            keras.layers.Dropout(params["dropout"]),
            keras.layers.Dense(1, activation="sigmoid", dtype="float32"),
        ]
    )
