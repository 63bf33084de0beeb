"""A line that a notebook runs."""

%matplotlib inline


def build_features(data):
    return data[["close"]].pct_change(5)
