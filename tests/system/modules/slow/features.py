"""
Momentum behind a slow start: a training prints numbered lines before it fits.

It does so until there is a file ``go`` beside its output, and otherwise for ten minutes.
"""

import os
import time
from pathlib import Path

import numpy as np
import pandas as pd

MOST_LINES = 12_000
PAUSE_SECONDS = 0.05

_told = False


def build_features(data: pd.DataFrame) -> pd.DataFrame:
    """Return one column; say so slowly, once, unless it is only validated."""
    global _told
    if not _told and os.environ.get("TOUCHSTONE_TASK_ID") != "validation":
        _told = True
        go = Path(os.environ["TOUCHSTONE_OUT"]) / "go"
        for number in range(MOST_LINES):
            if go.exists():
                break
            print(f"slow line {number:06d}", flush=True)
            time.sleep(PAUSE_SECONDS)
    log_close = np.log(data["close"])
    return pd.DataFrame({"momentum": log_close.diff(21)}, index=data.index)
