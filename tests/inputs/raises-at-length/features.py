"""A message of three lines."""


def build_features(data):
    raise ValueError("the window is too long\n\nsee the manual\nof the library")
