"""The time zone is taken off."""


def build_features(data):
    returns = data[["close"]].pct_change(5)
    return returns.tz_localize(None)
