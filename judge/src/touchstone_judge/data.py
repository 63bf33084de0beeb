"""
Market data that the judge holds itself, whatever a trainer says that it was given.

They are the canned series of the trainer's ``elnigma.data``, read here by other code.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.util
import io
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

import numpy as np

from touchstone_judge.errors import JudgeFault
from touchstone_judge.panel import FloatArray

DATA_NAME: Final = "sp500+nasdaq daily"
_FILES: Final = ("sp500", "nasdaq")


@dataclass(frozen=True, kw_only=True)
class MarketData:
    """
    Closing prices of the instrument that is traded.

    :param name: Of the data set.
    :param sha256: Digest of its files, one behind the other.
    :param days: The days on which all of its instruments were traded, increasing.
    :param close: Close of the first of them, of shape (days,).
    """

    name: str
    sha256: str
    days: tuple[date, ...]
    close: FloatArray


def load_market_data() -> MarketData:
    """
    Return the canned series of the package ``arch``.

    :raises JudgeFault: If they are not there, or make no sense.
    """
    digest = hashlib.sha256()
    closes: list[dict[date, float]] = []
    for name in _FILES:
        try:
            content = _find_file(name).read_bytes()
            closes.append(_read_closes(content))
        except (OSError, EOFError, KeyError, ValueError) as error:
            raise JudgeFault(f"market data: {name} cannot be read: {error!r:.200}") from error
        digest.update(content)
    days = tuple(sorted(set.intersection(*map(set, closes))))
    close = np.array([closes[0][day] for day in days])
    if len(days) < 2 or not (np.isfinite(close).all() and (close > 0).all()):
        raise JudgeFault("market data: a close is not a positive number")
    return MarketData(name=DATA_NAME, sha256=digest.hexdigest(), days=days, close=close)


def _find_file(name: str) -> Path:
    # Where the package is, without running it: that would take seconds.
    spec = importlib.util.find_spec("arch")
    if spec is None or spec.origin is None:
        raise JudgeFault("market data: the package 'arch' is not installed")
    return Path(spec.origin).parent / "data" / name / f"{name}.csv.gz"


def _read_closes(content: bytes) -> dict[date, float]:
    text = gzip.decompress(content).decode("ascii")
    closes: dict[date, float] = {}
    for row in csv.DictReader(io.StringIO(text)):
        month, number, year = map(int, row["Date"].split("/"))
        day = date(year, month, number)
        if day in closes:
            raise ValueError(f"{day} is there twice")
        closes[day] = float(row["Close"])
    return closes
