"""Momentum behind a slow start: a training prints numbered lines for a while before it fits."""

import os
import time

import numpy as np
import pandas as pd

LINES = 1500
PAUSE_SECONDS = 0.05

_told = False


def build_features(data: pd.DataFrame) -> pd.DataFrame:
    """Return one column; say so slowly, once, unless it is only validated."""
    global _told
    if not _told and os.environ.get("TOUCHSTONE_TASK_ID") != "validation":
        _told = True
        for number in range(LINES):
            print(f"slow line {number:06d}", flush=True)
            time.sleep(PAUSE_SECONDS)
    log_close = np.log(data["close"])
    return pd.DataFrame({"momentum": log_close.diff(21)}, index=data.index)
