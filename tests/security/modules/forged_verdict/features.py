"""Honest while it is validated; then leaves a verdict of its own and kills the runner."""

import ctypes
import os
from pathlib import Path

import numpy as np
import pandas as pd

VERDICT = (
    '{"contract": 1, "exit_code": 137, "outcome": "failed", "class": "x", "reason": "\\ud800", '
    '"x": 1' + "0" * 49 + '1, "files": [{"path": "../../escaped", "sha256": "' + "0" * 64 + '", '
    '"size": -1}]}'
)


def build_features(data: pd.DataFrame) -> pd.DataFrame:
    """Write what no record can hold, then end whoever would write the truth."""
    if os.environ.get("TOUCHSTONE_TASK_ID") != "validation":
        verdict = Path(os.environ["TOUCHSTONE_OUT"]) / "verdict.json"
        try:
            verdict.write_text(VERDICT)
        except OSError as error:
            print(f"cannot write the verdict: {error}", flush=True)
        libc = ctypes.CDLL(None)
        print(f"kill said {libc.kill(os.getppid(), 9)}", flush=True)
    return pd.DataFrame({"m": np.log(data["close"]).diff(5)}, index=data.index)
