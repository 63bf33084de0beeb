"""One block of attention over the last 20 rows, or as many as ``model.window`` says."""

import keras

WINDOW = 20


def build_model(n_features: int, params: dict) -> keras.Model:
    """
    Return an uncompiled model that maps a window of features to a probability.

    ``model.params.heads`` sets the number of heads.
    """
    window, units = params["window"], params["units"]
    inputs = keras.Input(shape=(window, n_features))
    # A bias for each row of the window tells its rows apart.
    rows = keras.layers.EinsumDense("btf,fd->btd", (window, units), bias_axes="td")(inputs)
    seen = keras.layers.MultiHeadAttention(params.get("heads", 2), units)(rows, rows)
    rows = keras.layers.LayerNormalization()(keras.layers.Add()([rows, seen]))
    mean = keras.layers.GlobalAveragePooling1D()(rows)
    return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid", dtype="float32")(mean))
