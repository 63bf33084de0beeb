"""A message that drives a terminal."""


def build_features(data):
    raise ValueError("\x1b[31mred\x1b[0m\rafter all")
