"""The price of a day that is not there."""


def build_features(data):
    features = data[["close"]].pct_change(5)
    features["base"] = data.loc["2015-01-02", "close"]
    return features
