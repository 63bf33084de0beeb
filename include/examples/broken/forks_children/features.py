"""Leaves processes behind that would work on after it has ended."""

import os
import time

import pandas as pd


def build_features(data: pd.DataFrame) -> pd.DataFrame:
    for _ in range(4):
        if os.fork() == 0:
            os.setsid()
            while True:
                time.sleep(1)
    return data[["close"]].pct_change(5)
