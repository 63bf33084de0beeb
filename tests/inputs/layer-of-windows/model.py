"""A convolution over one row."""

import keras


def build_model(n_features, params):
    return keras.Sequential(
        [
            keras.Input((n_features,)),
            keras.layers.Conv1D(8, 3),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
