"""An async that nobody waits for."""


async def build_features(data):
    return data[["close"]].pct_change(5)
