"""A line that is drawn again and again."""


def build_features(data):
    for step in range(100):
        print(f"\r{step} %", end="")
    return data[["close"]].pct_change(5)
