"""An error that is no Exception."""


class OddError(BaseException):
    pass


def build_features(data):
    raise OddError("the window is too long")
