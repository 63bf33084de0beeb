"""Columns by name, and no frame."""


def build_features(data):
    return {"momentum": data["close"].pct_change(5)}
