"""The reference transformer: rows of a window that attend to themselves and to earlier ones."""

from __future__ import annotations

from typing import Any

import keras

WINDOW = 32
_WIDENING = 2
"""Units of a block's inner layer, for each of its own."""


def build_model(n_features: int, params: dict[str, Any]) -> keras.Model:
    """
    Return an uncompiled model that maps a window of features to a probability.

    ``model.params.heads`` is the number of heads of each of ``layers`` blocks, among which their
    units are divided; 4 if it is not given.

    :param n_features: Columns of the features.
    :param params: The ``model`` section of the configuration.
    """
    window, units, dropout = params["window"], params["units"], params["dropout"]
    heads = params.get("heads", 4)
    regularizer = keras.regularizers.L2(params["l2"]) if params["l2"] else None
    inputs = keras.Input(shape=(window, n_features))
    # The bias has a value for each row of the window: what is learned of a position.
    hidden = keras.layers.EinsumDense(
        "btf,fd->btd",
        output_shape=(window, units),
        bias_axes="td",
        bias_initializer=keras.initializers.RandomNormal(stddev=0.02),
        kernel_regularizer=regularizer,
    )(inputs)
    for _ in range(params["layers"]):
        normal = keras.layers.LayerNormalization()(hidden)
        seen = keras.layers.MultiHeadAttention(
            heads, max(1, units // heads), dropout=dropout, kernel_regularizer=regularizer
        )(normal, normal, use_causal_mask=True)
        hidden = keras.layers.Add()([hidden, seen])
        normal = keras.layers.LayerNormalization()(hidden)
        change = keras.layers.Dense(
            _WIDENING * units, activation="gelu", kernel_regularizer=regularizer
        )(normal)
        change = keras.layers.Dense(units, kernel_regularizer=regularizer)(change)
        if dropout:
            change = keras.layers.Dropout(dropout)(change)
        hidden = keras.layers.Add()([hidden, change])
    last = keras.layers.Flatten()(keras.layers.Cropping1D((window - 1, 0))(hidden))
    normal = keras.layers.LayerNormalization()(last)
    # A probability needs more digits than layers of mixed precision give it.
    probability = keras.layers.Dense(1, activation="sigmoid", dtype="float32")(normal)
    return keras.Model(inputs, probability)
