"""Does not parse: a bracket is never closed."""

WINDOWS = (5, 21


def build_features(data):
    return data[["close"]].pct_change(WINDOWS[0])
