"""A helper with the name of a library."""

import calendar


def build_features(data):
    return calendar.momentum(data)
