"""A data set of our tests: EURUSD by the hour, 2017 to 2018, as it comes with ``backtesting``."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import fastparquet
import pandas as pd

TOML = """
schema_version = 1
name = "eurusd-hourly"
version = "2018-02"
title = "EURUSD, hourly"
file = "{file}"
sha256 = "{sha256}"
frequency = "1h"
calendar = "24x5"
time = "time"

[rows]
validation_from = 2017-10-01
test_from = 2017-12-01

[instruments.EURUSD]
role = "traded"
close = "close"

[columns.open]
instrument = "EURUSD"
available_at = "bar"

[columns.high]
instrument = "EURUSD"

[columns.low]
instrument = "EURUSD"

[columns.close]
instrument = "EURUSD"

[columns.volume]
instrument = "EURUSD"
available_at = "{delay}"
"""


def read_prices() -> pd.DataFrame:
    """Return the hours: ``time open high low close volume``."""
    # The package itself is not imported: that loads all of Bokeh.
    spec = importlib.util.find_spec("backtesting")
    assert spec is not None
    assert spec.origin is not None
    frame = pd.read_csv(Path(spec.origin).parent / "test" / "EURUSD.csv")
    return frame.set_axis(["time", "open", "high", "low", "close", "volume"], axis=1)


def write_data_set(
    folder: Path,
    *,
    frame: pd.DataFrame | None = None,
    file: str = "eurusd.csv",
    content: bytes | None = None,
    delay: str = "2h",
    text: str = TOML,
) -> Path:
    """Write a data set into a new folder, and return it; its digest is that of its file."""
    folder.mkdir(parents=True)
    path = folder / file
    table = read_prices() if frame is None else frame
    if content is not None:
        path.write_bytes(content)
    elif file.endswith(".parquet"):
        fastparquet.write(str(path), table)
    else:
        table.to_csv(path, index=False)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "data.toml").write_text(text.format(file=file, sha256=digest, delay=delay))
    return folder
