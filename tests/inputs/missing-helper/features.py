"""A file was forgotten."""

import helpers


def build_features(data):
    return helpers.momentum(data)
