"""An error that cannot say what it is."""


class OddError(Exception):
    def __str__(self):
        raise ValueError


def build_features(data):
    raise OddError
