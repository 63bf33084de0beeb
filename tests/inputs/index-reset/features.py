"""Row numbers in place of days."""


def build_features(data):
    return data[["close"]].pct_change(5).reset_index(drop=True)
