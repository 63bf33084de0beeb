"""The hour that the machine is in."""


def build_features(data):
    from datetime import datetime

    features = data[["close"]].pct_change(5)
    features["hour"] = [float(datetime.fromtimestamp(day.timestamp()).hour) for day in data.index]
    return features
