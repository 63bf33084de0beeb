def momentum(data):
    return data[["close"]].pct_change(5)
