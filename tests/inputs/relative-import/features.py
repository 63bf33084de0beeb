"""Part of a package, at home."""

from . import helpers


def build_features(data):
    return helpers.momentum(data)
