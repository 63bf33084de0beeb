"""Builds the full matrix of products of all pairs of rows, again and again."""

import numpy as np
import pandas as pd


def build_features(data: pd.DataFrame) -> pd.DataFrame:
    close = data["close"].to_numpy()
    products = []
    while True:
        products.append(np.outer(close, close))
