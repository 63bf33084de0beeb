"""The reference LSTM: layers that read a window row by row; the last row's state is judged."""

from __future__ import annotations

from typing import Any

import keras

WINDOW = 32


def build_model(n_features: int, params: dict[str, Any]) -> keras.Model:
    """
    Return an uncompiled model that maps a window of features to a probability.

    :param n_features: Columns of the features.
    :param params: The ``model`` section of the configuration.
    """
    window = params["window"]
    regularizer = keras.regularizers.L2(params["l2"]) if params["l2"] else None
    layers: list[keras.Layer] = [keras.Input(shape=(window, n_features))]
    for _ in range(params["layers"]):
        layers.append(
            keras.layers.LSTM(
                params["units"], return_sequences=True, kernel_regularizer=regularizer
            )
        )
        if params["dropout"]:
            layers.append(keras.layers.Dropout(params["dropout"]))
    layers += [keras.layers.Cropping1D((window - 1, 0)), keras.layers.Flatten()]
    # A probability needs more digits than layers of mixed precision give it.
    layers.append(keras.layers.Dense(1, activation="sigmoid", dtype="float32"))
    return keras.Sequential(layers)
