"""The return is forgotten."""


def build_features(data):
    data["close"].pct_change(5)
