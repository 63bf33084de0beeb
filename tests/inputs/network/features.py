"""It fetches prices."""


def build_features(data):
    import urllib.request

    urllib.request.urlopen("http://192.0.2.1/prices.csv", timeout=1)
    return data[["close"]].pct_change(5)
