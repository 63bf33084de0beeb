"""
Causal convolutions of which each looks twice as far back: together, as far as a window reaches.

The window is 16 rows, or as many as ``model.window`` says.
"""

import keras

WINDOW = 16


def build_model(n_features: int, params: dict) -> keras.Model:
    """Return an uncompiled model that maps a window of features to a probability."""
    window = params["window"]
    inputs = hidden = keras.Input(shape=(window, n_features))
    step = 1
    while step < window:
        hidden = keras.layers.Conv1D(
            params["units"], 2, padding="causal", dilation_rate=step, activation="relu"
        )(hidden)
        step *= 2
    last = keras.layers.Flatten()(keras.layers.Cropping1D((window - 1, 0))(hidden))
    return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid", dtype="float32")(last))
