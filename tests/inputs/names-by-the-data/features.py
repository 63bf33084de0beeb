"""A column is named by the last year."""


def build_features(data):
    features = data[["close"]].pct_change(5)
    return features.rename(columns={"close": f"close_{data.index[-1].year}"})
