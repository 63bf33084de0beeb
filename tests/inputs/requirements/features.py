"""It needs a library."""

import ta


def build_features(data):
    return ta.momentum(data)
