"""One wide layer behind a normalisation, beside a linear path for what is linear."""

import keras


def build_model(n_features: int, params: dict) -> keras.Model:
    """
    Return an uncompiled model that maps features to a probability.

    ``model.params.width`` sets the width of the hidden layer.
    """
    inputs = keras.Input(shape=(n_features,))
    hidden = keras.layers.BatchNormalization()(inputs)
    hidden = keras.layers.Dense(params.get("width", 128), activation="gelu")(hidden)
    hidden = keras.layers.Dropout(params["dropout"])(hidden)
    logit = keras.layers.Add()([keras.layers.Dense(1)(hidden), keras.layers.Dense(1)(inputs)])
    return keras.Model(inputs, keras.layers.Activation("sigmoid")(logit))
