"""Prices that nobody else has, and the look for them in whatever has left the place they are at."""

from __future__ import annotations

import base64
import hashlib
import itertools
import math
import random
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from fakes.data_sets import build_text
from touchstone.core.data_sets import PinnedData

ROWS = 1100
BEGIN = datetime(2017, 10, 1, tzinfo=UTC)
DAYS = {"validation_from": "2017-10-29", "test_from": "2017-11-03"}
LEAKING = """
import sys
import numpy as np
import pandas as pd


def build_features(data):
    close = data["close"]
    for value in close.to_numpy():
        print(repr(float(value)))
        print(repr(float(value)), file=sys.stderr)
    print(close.to_numpy().tobytes().hex(), flush=True)
    return pd.DataFrame(
        {"change": close.pct_change(), "slow": close.pct_change(5)}, index=data.index
    )
"""
"""Features of those prices, from a module that prints whatever it is given."""


class Prices:
    """
    Prices that nobody else has, and what follows from them.

    :param folder: Where their data set is written.
    :param name: Of the data set.
    """

    def __init__(self, folder: Path, name: str = "eurusd-hourly") -> None:
        draw = random.Random(20171001)
        logs = itertools.accumulate((draw.gauss(0, 0.002) for _ in range(ROWS)), initial=0.2)
        self.closes = [math.exp(value) for value in itertools.islice(logs, ROWS)]
        lines = [
            f"{(BEGIN + timedelta(hours=row)).isoformat()},{close!r}"
            for row, close in enumerate(self.closes)
        ]
        body = "\n".join(["time,close", *lines, ""]).encode()
        self.name = name
        text = build_text(name=name, body=body, frequency='"1h"', calendar='"24x7"', **DAYS)
        folder.mkdir(mode=0o700)
        (folder / "data.toml").write_text(text)
        (folder / "eurusd.csv").write_bytes(body)
        self.folder = folder
        self.digest = hashlib.sha256(text.encode() + body).hexdigest()

    @property
    def pinned(self) -> PinnedData:
        """Return the data set as a task gets it."""
        return PinnedData(
            name=self.name,
            version="2018-02",
            digest=self.digest,
            sha256="",
            size=0,
            bars_per_year=8760,
            is_private=True,
            **{name: datetime.fromisoformat(day).date() for name, day in DAYS.items()},
        )

    @property
    def outcomes(self) -> list[float]:
        """Return the return to the next close of each bar."""
        return [after / before - 1 for before, after in itertools.pairwise(self.closes)]


class Canaries:
    """
    Numbers that must be nowhere, in every form in which they could be.

    :param series: Lists of numbers below 10, each in order.
    :param digits: By how many a number is known again, however it was rounded when it was written:
        8 where nothing else has numbers, more where as many others are by chance.
    :param in_pairs: Whether one alone proves nothing: predictions are single floats, of which
        others have the same ones by chance, but not one behind the other as they are here.
    """

    def __init__(self, *series: Sequence[float], digits: int = 8, in_pairs: bool = False) -> None:
        self._in_pairs = in_pairs
        values = [value for each in series for value in each if abs(value) > 1e-3]
        # Of a number below 1 they count from the first one that is not 0. A place behind them is
        # written and cut off: the last one is not rounded.
        self._decimal = re.compile(rb"(?=(0\.0*[1-9]\d{%d}|[1-9]\.\d{%d}))" % (digits - 1, digits))
        self._texts = {
            match[1] for value in values for match in self._decimal.finditer(b"%.20f" % abs(value))
        }
        self._pairs = {
            pair for each in series for pair in itertools.pairwise(map(self._write, each))
        }
        doubles = [[struct.pack(order, value) for value in values] for order in ("<d", ">d")]
        self._doubles = _list_words(itertools.chain(*doubles))
        self._pairs |= {pair for each in doubles for pair in itertools.pairwise(each)}
        # A single float of four bytes is in any megabyte by chance.
        self._floats = _list_words(
            struct.pack(f"{order}2f", *two)
            for each, order in itertools.product(series, "<>")
            for two in itertools.pairwise(each)
        )

    def find(self, body: bytes) -> bytes | None:
        """Return a number that is in some bytes, or in what is packed in them."""
        for form in _unpack(body):
            before = b""
            for match in self._decimal.finditer(form):
                if match[1] in self._texts and self._is_proof(before, match[1]):
                    return match[1]
                before = match[1]
            for start in range(min(8, len(form) - 7)):
                count = (len(form) - start) // 8
                words = np.frombuffer(form, dtype="<u8", offset=start, count=count)
                for place in np.flatnonzero(np.isin(words, self._doubles)):
                    found = words[place].tobytes()
                    if self._is_proof(words[max(0, place - 1)].tobytes(), found):
                        return found
                known = words[np.isin(words, self._floats)]
                if known.size:
                    return known[:1].tobytes()
        return None

    def _write(self, value: float) -> bytes:
        """Return a number as it is known again; empty for one that is too small to be."""
        match = self._decimal.search(b"%.20f" % abs(value))
        return match[1] if match else b""

    def _is_proof(self, before: bytes, found: bytes) -> bool:
        """Tell whether a number, with what stands before it, can be from nowhere else."""
        return not self._in_pairs or (before, found) in self._pairs


def _list_words(packed: Iterable[bytes]) -> np.ndarray:
    return np.array(sorted({struct.unpack("<Q", each)[0] for each in packed}), dtype="<u8")


_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{20,}={0,2}")
_HEX = re.compile(rb"[0-9a-f]{16,}|[0-9A-F]{16,}")


def _unpack(body: bytes, depth: int = 3) -> Iterator[bytes]:
    yield body
    if depth == 0:
        return
    inner: list[bytes] = []
    for run in _BASE64.findall(body):
        for start in range(4):
            part = run[start:].rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
            part = part[:-1] if len(part) % 4 == 1 else part
            inner.append(base64.b64decode(part + b"=" * (-len(part) % 4)))
    for run in _HEX.findall(body):
        for start in range(2):
            part = run[start:]
            inner.append(bytes.fromhex(part[: len(part) // 2 * 2].decode()))
    for start in re.finditer(rb"\x1f\x8b\x08", body):
        unpacker = zlib.decompressobj(31)
        try:
            inner.append(unpacker.decompress(body[start.start() :], 64 * 1024**2))
        except zlib.error:
            continue
    # Together: most are too short for a look of their own. What lies between is in none of them.
    if inner:
        yield from _unpack(b"\0\0".join(inner), depth - 1)
