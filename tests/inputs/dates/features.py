"""A date is no number."""


def build_features(data):
    features = data[["close"]].pct_change(5)
    features["month_end"] = data.index + (data.index - data.index)
    return features
