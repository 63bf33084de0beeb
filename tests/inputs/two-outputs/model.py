"""Long and short at once."""

import keras


def build_model(n_features, params):
    rows = keras.Input((n_features,))
    long = keras.layers.Dense(1, activation="sigmoid")(rows)
    short = keras.layers.Dense(1, activation="sigmoid")(rows)
    return keras.Model(rows, [long, short])
