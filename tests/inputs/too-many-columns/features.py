"""A window for each number."""


def build_features(data):
    import pandas as pd

    return pd.DataFrame({f"w{n}": data["close"].pct_change(1 + n % 9) for n in range(513)})
