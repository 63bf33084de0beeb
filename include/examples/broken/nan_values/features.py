"""Takes the logarithm of returns, which are negative every other day."""

import numpy as np
import pandas as pd


def build_features(data: pd.DataFrame) -> pd.DataFrame:
    with np.errstate(all="ignore"):
        values = np.log(data["close"].pct_change() + 0.01)
    return pd.DataFrame({"log_return": values.replace(-np.inf, np.nan)}, index=data.index)
