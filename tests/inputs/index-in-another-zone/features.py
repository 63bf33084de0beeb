"""The time zone of the exchange."""


def build_features(data):
    return data[["close"]].pct_change(5).tz_convert("America/New_York")
