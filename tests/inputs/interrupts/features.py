"""It interrupts itself."""


def build_features(data):
    raise KeyboardInterrupt
