"""Downloads an index of its own."""

import urllib.request

import pandas as pd


def build_features(data: pd.DataFrame) -> pd.DataFrame:
    with urllib.request.urlopen("http://192.0.2.1/index.csv", timeout=5) as response:
        index = pd.read_csv(response, index_col=0)
    return index.reindex(data.index)
