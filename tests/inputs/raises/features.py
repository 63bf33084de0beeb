"""A column that the data do not have."""


def build_features(data):
    return data[["vwap"]].pct_change(5)
