"""
Passes validation, fails when trained: its table of eras ends with the years it was tried on.

Canned data end in 2010; a training sees later years.
"""

import pandas as pd

ERAS = {1999: "boom", 2000: "bust", 2001: "bust", 2002: "bust"}
ERAS |= dict.fromkeys(range(2003, 2008), "calm") | dict.fromkeys(range(2008, 2011), "crisis")


def build_features(data: pd.DataFrame) -> pd.DataFrame:
    era = [ERAS[year] for year in data.index.year]
    momentum = data["close"].pct_change(21)
    return pd.DataFrame(
        {"momentum": momentum, "momentum_in_crisis": momentum * [e == "crisis" for e in era]},
        index=data.index,
    )
