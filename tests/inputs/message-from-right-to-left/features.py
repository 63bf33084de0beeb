"""A message that turns the line round."""


def build_features(data):
    raise ValueError("the window \u202e is wrong")
