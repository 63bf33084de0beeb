"""A table in place of the function."""

build_features = {"window": 5}
