"""Market data, and those that are built in: the S&P 500 with the Nasdaq, as with ``arch``."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from elnigma.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

DATA_NAME = "sp500+nasdaq daily"
CANNED = "canned"
"""What the arguments call the data that are built in."""

_COLUMNS = {
    "Open": "open",
    "High": "high",
    "Low": "low",
    "Close": "close",
    "Adj Close": "adj_close",
    "Volume": "volume",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """
    Prices that move together.

    :param close: What they are relative to: a close of each row, known when its bar ended.
    :param columns: Columns of the frame.
    """

    close: np.ndarray
    columns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Follower:
    """
    Something of the next row that a feature could have read there.

    :param column: Of the frame.
    :param over: A column that it is divided by; ``None`` for none.
    :param is_over_next: Whether that one is the next row's as well.
    """

    column: str
    over: str | None = None
    is_over_next: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class MarketData:
    """
    What features are made from.

    :param frame: One row a bar, index increasing, unique, in UTC: what features see in each bar.
    :param sha256: Digest of the source files, for the record of what was trained on.
    :param name: Of the data, likewise.
    :param groups: Columns that move together. The first has the closes that are traded. Columns of
        no group stand for themselves.
    :param references: Which of the groups have closes of other instruments.
    :param followers: What is looked at of a next row beside returns.
    :param first_whole: The first row of which all is known, that of the close before included.
    :param is_short: Whether a bar is shorter than a day.
    """

    frame: pd.DataFrame
    sha256: str
    name: str
    groups: tuple[Group, ...]
    references: tuple[int, ...] = ()
    followers: tuple[Follower, ...] = ()
    first_whole: int = 1
    is_short: bool = False

    @property
    def close(self) -> pd.Series:
        """Return the closes that are traded."""
        import pandas as pd

        return pd.Series(self.groups[0].close, index=self.frame.index)

    def cut(self, rows: int) -> MarketData:
        """Return the first rows alone."""
        groups = tuple(replace(each, close=each.close[:rows]) for each in self.groups)
        return replace(self, frame=self.frame.iloc[:rows], groups=groups)


def load_market_data(until: str | None = None) -> MarketData:
    """
    Read the data that are built in.

    They are daily: ``open high low close adj_close volume`` of the S&P 500, and the same of the
    Nasdaq with the prefix ``nasdaq_``.

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
    market = MarketData(
        frame=frame,
        sha256=digest.hexdigest(),
        name=DATA_NAME,
        groups=tuple(
            Group(
                close=frame[prefix + close].to_numpy(),
                columns=tuple(prefix + name for name in names),
            )
            for prefix in ("", "nasdaq_")
            for close, names in (
                ("close", ("open", "high", "low", "close")),
                ("adj_close", ("adj_close",)),
            )
        ),
        references=(2,),
        followers=(
            Follower(column="open", over="close"),
            Follower(column="high", over="low", is_over_next=True),
            Follower(column="volume"),
            Follower(column="nasdaq_volume"),
        ),
    )
    return market if until is None else cut_behind(market, until)


def cut_behind(market: MarketData, until: str) -> MarketData:
    """
    Return the rows up to a day.

    :param until: The last day, ``YYYY-MM-DD``.
    :raises ConfigError: If the data begin behind it.
    """
    index = market.frame.index
    rows = len(market.frame.loc[:until])
    if not rows:
        raise ConfigError(
            f"--fetched-data-end-to is {until}, the data begin on {index[0].date()}; "
            "name a later day"
        )
    return market.cut(rows)


def _find_price_file(name: str) -> Path:
    # find_spec of the top-level name locates the package without running it.
    spec = importlib.util.find_spec("arch")
    if spec is None or spec.origin is None:
        raise DataError("market data: the package 'arch' is not installed")
    return Path(spec.origin).parent / "data" / name / f"{name}.csv.gz"
