"""It keeps a cache in the root folder."""


def build_features(data):
    with open("/cache.csv", "w") as file:
        file.write("close")
    return data[["close"]].pct_change(5)
