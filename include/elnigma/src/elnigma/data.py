"""Daily market data: the S&P 500 with the Nasdaq beside it, as installed with ``arch``."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from elnigma.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd

DATA_NAME = "sp500+nasdaq daily"
# A validation sees the training years only: nothing of the rows that a submission is judged on.
CANNED_UNTIL = "2010-12-31"

_COLUMNS = {
    "Open": "open",
    "High": "high",
    "Low": "low",
    "Close": "close",
    "Adj Close": "adj_close",
    "Volume": "volume",
}


@dataclass(frozen=True, kw_only=True)
class MarketData:
    """
    What features are made from.

    :param frame: One row a trading day, index increasing, unique, in UTC; columns ``open high
        low close adj_close volume`` and the same with the prefix ``nasdaq_``.
    :param sha256: Digest of the source files, for the record of what was trained on.
    """

    frame: pd.DataFrame
    sha256: str


def load_market_data(until: str | None = None) -> MarketData:
    """
    Read the daily data.

    :param until: Last day to include, ``YYYY-MM-DD``; ``None`` for all.
    :raises DataError: If the files are missing or damaged.
    :raises ConfigError: If the data begin behind ``until``.
    """
    import pandas as pd

    digest = hashlib.sha256()
    frames = []
    for name, prefix in (("sp500", ""), ("nasdaq", "nasdaq_")):
        path = _find_price_file(name)
        try:
            content = path.read_bytes()
            digest.update(content)
            with gzip.open(path, "rt", encoding="utf-8") as stream:
                frame = pd.read_csv(stream, index_col="Date")
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"market data: {name} cannot be read: {error}") from error
        frame.index = pd.to_datetime(frame.index, format="%m/%d/%Y", utc=True)
        frames.append(frame.rename(columns={k: prefix + v for k, v in _COLUMNS.items()}))
    # Both exchanges keep the same calendar; an outer row would be a hole in one of them.
    frame = pd.concat(frames, axis=1, join="inner").astype("float64")
    frame.index.name = "time"
    if not frame.index.is_monotonic_increasing or not frame.index.is_unique:
        raise DataError("market data: days are not increasing and unique")
    for name in ("volume", "nasdaq_volume"):
        # Two days of the Nasdaq have prices and no volume; nobody traded nothing.
        frame[name] = frame[name].where(frame[name] > 0).ffill()
    if until is not None:
        first = frame.index[0]
        frame = frame.loc[:until]
        if frame.empty:
            raise ConfigError(
                f"--fetched-data-end-to is {until}, the data begin on {first.date()}; "
                "name a later day"
            )
    return MarketData(frame=frame, sha256=digest.hexdigest())


def _find_price_file(name: str) -> Path:
    # find_spec of the top-level name locates the package without running it.
    spec = importlib.util.find_spec("arch")
    if spec is None or spec.origin is None:
        raise DataError("market data: the package 'arch' is not installed")
    return Path(spec.origin).parent / "data" / name / f"{name}.csv.gz"
