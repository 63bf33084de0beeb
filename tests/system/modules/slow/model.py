"""
One layer behind a slow start: a training prints numbered lines before it fits.

It does so until there is a file ``go`` in its output, and otherwise for ten minutes.
"""

import time
from pathlib import Path

import keras

MOST_LINES = 12_000
PAUSE_SECONDS = 0.05
# Of the reference features. A validation, which is told apart by nothing else, builds other ones.
TRAINED_WIDTH = 15
# The input and the output of an attempt stand beside each other everywhere.
GO = Path(__file__).parents[2] / "out" / "go"

_told = False


def build_model(n_features: int, params: dict) -> keras.Model:
    """Return a model; say so slowly, once, unless it is only validated."""
    global _told
    if not _told and n_features == TRAINED_WIDTH:
        _told = True
        for number in range(MOST_LINES):
            if GO.exists():
                break
            print(f"slow line {number:06d}", flush=True)
            time.sleep(PAUSE_SECONDS)
    return keras.Sequential(
        [keras.Input((n_features,)), keras.layers.Dense(1, activation="sigmoid")]
    )
