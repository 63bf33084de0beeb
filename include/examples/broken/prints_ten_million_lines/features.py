"""Prints a line for each of ten million steps: a debug print left in a loop."""

import pandas as pd

for step in range(10_000_000):
    print("step", step, "of 10000000: still looking for the best window")


def build_features(data: pd.DataFrame) -> pd.DataFrame:
    return data[["close"]].pct_change(5)
