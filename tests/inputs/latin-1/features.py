"""Fünf Tage."""


def build_features(data):
    return data[["close"]].pct_change(5)
