"""A window of three years."""


def build_features(data):
    return data[["close"]].rolling(750).mean()
