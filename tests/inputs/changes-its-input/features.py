"""It works in the frame that it is given."""


def build_features(data):
    data["momentum"] = data["close"].pct_change(5)
    return data[["momentum"]]
