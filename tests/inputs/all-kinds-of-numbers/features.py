"""Every dtype that holds real numbers."""


def build_features(data):
    from decimal import Decimal

    import pandas as pd

    close = data["close"]
    return pd.DataFrame(
        {
            "flag": close > close.shift(1),
            "count": pd.array([row % 3 for row in range(len(data))], dtype="Int64"),
            "nullable": pd.array((close > 1000).to_numpy(), dtype="boolean"),
            "half": close.pct_change(5).astype("float16"),
            "sparse": pd.arrays.SparseArray((close > 1200).astype(float).to_numpy()),
            "money": [Decimal(int(value)) for value in close],
            "mixed": [None, *([1, 2.5] * len(data))[: len(data) - 1]],
        },
        index=data.index,
    )
