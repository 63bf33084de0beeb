"""
The reference temporal convolutional network: causal convolutions, each added to what it reads.

Bai, Kolter and Koltun 2018, An Empirical Evaluation of Generic Convolutional and Recurrent Networks
for Sequence Modeling, with one convolution a block.
"""

from __future__ import annotations

from typing import Any

import keras

WINDOW = 32


def build_model(n_features: int, params: dict[str, Any]) -> keras.Model:
    """
    Return an uncompiled model that maps a window of features to a probability.

    Each of ``layers`` blocks looks back in steps twice as long as the one before.
    ``model.params.kernel_size`` is the number of rows that it looks at; 3 if it is not given.

    :param n_features: Columns of the features.
    :param params: The ``model`` section of the configuration.
    """
    window, units = params["window"], params["units"]
    regularizer = keras.regularizers.L2(params["l2"]) if params["l2"] else None
    inputs = keras.Input(shape=(window, n_features))
    hidden = keras.layers.Dense(units, kernel_regularizer=regularizer)(inputs)
    for block in range(params["layers"]):
        change = keras.layers.Conv1D(
            units,
            params.get("kernel_size", 3),
            padding="causal",
            # Longer steps would only see the zeros before the window.
            dilation_rate=min(2**block, window),
            activation="relu",
            kernel_regularizer=regularizer,
        )(hidden)
        if params["dropout"]:
            change = keras.layers.Dropout(params["dropout"])(change)
        hidden = keras.layers.Add()([hidden, change])
    last = keras.layers.Flatten()(keras.layers.Cropping1D((window - 1, 0))(hidden))
    # A probability needs more digits than layers of mixed precision give it.
    probability = keras.layers.Dense(1, activation="sigmoid", dtype="float32")(last)
    return keras.Model(inputs, probability)
