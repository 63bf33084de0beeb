"""The reference model structure: a small multi-layer perceptron."""

from __future__ import annotations

from typing import Any

import keras


def build_model(n_features: int, params: dict[str, Any]) -> keras.Model:
    """
    Return an uncompiled model that maps features to a probability.

    :param n_features: Columns of the features.
    :param params: The ``model`` section of the configuration.
    """
    regularizer = keras.regularizers.L2(params["l2"]) if params["l2"] else None
    layers: list[keras.Layer] = [keras.Input(shape=(n_features,))]
    for _ in range(params["layers"]):
        layers.append(
            keras.layers.Dense(params["units"], activation="relu", kernel_regularizer=regularizer)
        )
        if params["dropout"]:
            layers.append(keras.layers.Dropout(params["dropout"]))
    # A probability needs more digits than layers of mixed precision give it.
    layers.append(keras.layers.Dense(1, activation="sigmoid", dtype="float32"))
    return keras.Sequential(layers)
