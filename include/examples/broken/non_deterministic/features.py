"""Adds noise that nobody seeded."""

import numpy as np
import pandas as pd


def build_features(data: pd.DataFrame) -> pd.DataFrame:
    noise = np.random.default_rng().normal(0, 1e-3, len(data))
    return pd.DataFrame({"noisy": data["close"].pct_change(5) + noise}, index=data.index)
