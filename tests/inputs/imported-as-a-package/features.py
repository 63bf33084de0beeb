"""Imports as in the repository that it is from."""

from research.helpers import momentum


def build_features(data):
    return momentum(data)
