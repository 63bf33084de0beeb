"""With a file beside it."""

import helpers


def build_features(data):
    return helpers.momentum(data)
