"""A model with a call of its own."""

import keras
class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1, activation="sigmoid")

    def call(self, rows):
        return self.dense(rows)


def build_model(n_features, params):
    return Net()
