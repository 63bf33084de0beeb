"""
Market data that the judge holds itself, whatever a trainer says that it was given.

They are those of the trainer's ``elnigma.data`` and ``elnigma.data_set``, read here by other code.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.util
import io
import math
import re
import tomllib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, Final

import numpy as np

from touchstone_judge.errors import JudgeFault, NotJudged, show
from touchstone_judge.panel import FloatArray

DATA_NAME: Final = "sp500+nasdaq daily"
CANNED_BARS: Final = 252
"""Bars a year of the canned series."""
SET_FILE: Final = "data.toml"
MAX_TEXT_BYTES: Final = 64 * 1024
MAX_DATA_BYTES: Final = 256 * 1024**2
"""Of a data file, and of what is unpacked of one."""
MAX_ROWS: Final = 100_000
_FILES: Final = ("sp500", "nasdaq")
_PLAIN_FILE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.(csv|csv\.gz|parquet)")
_SPAN: Final = re.compile(r"([1-9]\d{0,4})(min|h|d)", re.ASCII)
_HOURS_A_DAY: Final = {"XNYS": 6.5, "24x5": 24.0, "24x7": 24.0}
_DAYS_A_YEAR: Final = {"XNYS": 252, "24x5": 260, "24x7": 365}
_NOT_READABLE: Final = (csv.Error, zlib.error, ImportError)
_HOURS: Final = {"min": 1 / 60, "h": 1.0}


@dataclass(frozen=True, kw_only=True)
class MarketData:
    """
    Closing prices of the instrument that is traded.

    :param name: Of the data set.
    :param sha256: Digest of its files, one behind the other.
    :param times: Of its bars, in UTC, increasing.
    :param close: Close of each, of shape (times,).
    :param bars_per_year: By its calendar.
    """

    name: str
    sha256: str
    times: tuple[datetime, ...]
    close: FloatArray
    bars_per_year: int

    @property
    def is_daily(self) -> bool:
        """Return whether all bars are of midnight, so that their days name them."""
        return all(moment.time() == time() for moment in self.times)

    def show(self, row: int) -> str:
        """Return a row's day, or its time where the day does not name it."""
        moment = self.times[row]
        return moment.date().isoformat() if self.is_daily else moment.isoformat()


def load_market_data(folder: Path | None = None) -> MarketData:
    """
    Return a data set, or the canned series of the package ``arch``.

    :param folder: Of the data set; ``None`` for the canned series.
    :raises JudgeFault: If they are not there, or make no sense.
    """
    return _load_canned() if folder is None else _load_set(folder)


def count_bars(frequency: str, calendar: str) -> int:
    """
    Return how many bars a year has.

    :param frequency: A whole number and ``min``, ``h`` or ``d``.
    :param calendar: ``XNYS``, ``24x5`` or ``24x7``.
    :raises ValueError: If it is another one.
    """
    match = _SPAN.fullmatch(frequency)
    if match is None or calendar not in _DAYS_A_YEAR:
        raise ValueError(f"frequency {frequency!r:.40}, calendar {calendar!r:.40}")
    length, days = int(match[1]), _DAYS_A_YEAR[calendar]
    if match[2] == "d":
        return round(days / length)
    return round(days * _HOURS_A_DAY[calendar] / (length * _HOURS[match[2]]))


def _load_canned() -> MarketData:
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
    return MarketData(
        name=DATA_NAME,
        sha256=digest.hexdigest(),
        times=tuple(datetime.combine(day, time(), tzinfo=UTC) for day in days),
        close=close,
        bars_per_year=CANNED_BARS,
    )


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


@dataclass(frozen=True, kw_only=True)
class _DataSet:
    """
    The two files of a data set, as they were read.

    :param document: What ``data.toml`` says.
    :param text: That file.
    :param name: Name and version.
    :param file: Name of the data file.
    :param content: That file.
    :param stamp: The column with the times.
    :param close: The column with the closes of what is traded.
    :param bars_per_year: By its calendar.
    """

    document: Mapping[str, Any]
    text: bytes
    name: str
    file: str
    content: bytes
    stamp: str
    close: str
    bars_per_year: int

    def iterate(self, names: Sequence[str]) -> Iterator[tuple[datetime, tuple[float, ...]]]:
        """
        Yield the time and some values of each row, as many rows as there may be.

        :param names: Columns.
        :raises JudgeFault: If they make no sense.
        """
        read = _read_parquet if self.file.endswith(".parquet") else _read_csv
        before, rows = None, 0
        try:
            for moment, values in read(self.file, self.content, self.stamp, names):
                if rows >= MAX_ROWS:
                    raise ValueError(f"more than {MAX_ROWS} rows")
                if before is not None and moment <= before:
                    raise ValueError(f"{moment.isoformat()} stands behind {before.isoformat()}")
                before, rows = moment, rows + 1
                yield moment, values
        except (OSError, EOFError, ValueError, TypeError, ArithmeticError, *_NOT_READABLE) as error:
            told = f"market data: {self.file} cannot be read: {error!r:.200}"
            raise JudgeFault(told) from error


def _open_set(folder: Path) -> _DataSet:
    text = _read_bounded(folder / SET_FILE, MAX_TEXT_BYTES)
    try:
        document = tomllib.loads(text.decode())
        name = f"{document['name']} {document['version']}"
        file = str(document["file"])
        if not _PLAIN_FILE.fullmatch(file):
            raise ValueError(f"file is {file!r:.60}")
        bars = count_bars(str(document["frequency"]), str(document["calendar"]))
        stamp, close = str(document["time"]), _find_close(document["instruments"])
        due = str(document["sha256"])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise JudgeFault(f"market data: {SET_FILE} makes no sense: {error!r:.200}") from error
    content = _read_bounded(folder / file, MAX_DATA_BYTES)
    found = hashlib.sha256(content).hexdigest()
    if found != due:
        raise JudgeFault(
            f"market data: {file} has the sha256 {found}, {SET_FILE} says {show(due, 64)}"
        )
    return _DataSet(
        document=document,
        text=text,
        name=name,
        file=file,
        content=content,
        stamp=stamp,
        close=close,
        bars_per_year=bars,
    )


def _load_set(folder: Path) -> MarketData:
    opened = _open_set(folder)
    rows: list[tuple[datetime, float]] = []
    for moment, (price,) in opened.iterate([opened.close]):
        if not (math.isfinite(price) and price > 0):
            why = f"the close of {moment.isoformat()} is {price!r}"
            raise JudgeFault(f"market data: {opened.file} cannot be read: {why}")
        rows.append((moment, price))
    if len(rows) < 2:
        raise JudgeFault(f"market data: {opened.file} has {len(rows)} rows")
    return MarketData(
        name=opened.name,
        sha256=hashlib.sha256(opened.text + opened.content).hexdigest(),
        times=tuple(moment for moment, _ in rows),
        close=np.array([price for _, price in rows]),
        bars_per_year=opened.bars_per_year,
    )


_SAME: Final = ("name", "frequency", "calendar", "instruments", "columns")
"""What two versions of a data set must say alike, for one to be the other with more rows."""


def check_extended(before: Path, after: Path) -> None:
    """
    Refuse a version of a data set that is not another one with more rows behind it.

    :param before: Folder of the version of before.
    :param after: Folder of the newer one.
    :raises NotJudged: Naming what differs: a key, a row that is missing, or a column of a row.
    :raises JudgeFault: If one of them makes no sense.
    """
    was, now = _open_set(before), _open_set(after)
    for key in _SAME:
        if was.document.get(key) != now.document.get(key):
            raise NotJudged(f"other data ({SET_FILE}: '{key}' of {now.name} is not {was.name}'s)")
    listed = was.document.get("columns")
    names = sorted({was.close, *(map(str, listed) if isinstance(listed, dict) else ())})
    theirs = now.iterate(names)
    for moment, values in was.iterate(names):
        found = next(theirs, None)
        when = moment.isoformat()
        if found is None or found[0] != moment:
            raise NotJudged(f"other data ({now.name} has no row of {when} where {was.name} has it)")
        for name, value, other in zip(names, values, found[1], strict=True):
            if value != other and not (math.isnan(value) and math.isnan(other)):
                raise NotJudged(
                    f"other data ({show(name, 40)} of {when} is {other!r} in {now.name}, "
                    f"and {value!r} in {was.name})"
                )
    # What stands behind must make sense as well.
    for _ in theirs:
        pass


def _read_bounded(path: Path, most: int) -> bytes:
    try:
        if not path.is_file():
            raise JudgeFault(f"market data: {path.name} cannot be read: there is no such file")
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise JudgeFault(
            f"market data: {path.name} cannot be read: {error.strerror or error}"
        ) from error
    if len(content) > most:
        raise JudgeFault(f"market data: {path.name} has more than {most} bytes")
    return content


def _find_close(instruments: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the column with closes of the one instrument that is traded."""
    closes = [each["close"] for each in instruments.values() if each["role"] == "traded"]
    if len(closes) != 1:
        raise ValueError(f"{len(closes)} instruments are traded")
    return str(closes[0])


def _read_csv(
    file: str, content: bytes, stamp: str, names: Sequence[str]
) -> Iterator[tuple[datetime, tuple[float, ...]]]:
    if file.endswith(".gz"):
        with gzip.open(io.BytesIO(content)) as stream:
            content = stream.read(MAX_DATA_BYTES + 1)
        if len(content) > MAX_DATA_BYTES:
            raise ValueError(f"more than {MAX_DATA_BYTES} bytes")
    # Decoded as it is read: as one text it would take four times its bytes.
    lines = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="")
    rows = csv.reader(lines, strict=True)
    header = next(rows, [])
    at, places = _find_column(header, stamp), [_find_column(header, name) for name in names]
    for cells in rows:
        if not cells:
            continue
        if len(cells) != len(header):
            raise ValueError(f"line {rows.line_num} has {len(cells)} fields")
        yield _read_moment(cells[at]), tuple(float(cells[place]) for place in places)


def _read_parquet(
    _file: str, content: bytes, stamp: str, names: Sequence[str]
) -> Iterator[tuple[datetime, tuple[float, ...]]]:
    # Loads pandas: only where such a file is.
    from fastparquet import ParquetFile

    try:
        opened = ParquetFile(io.BytesIO(content))
        columns, rows = list(opened.columns), int(opened.count())
        size = sum(
            each.meta_data.total_uncompressed_size
            for group in opened.row_groups
            for each in group.columns
        )
    except Exception as error:  # whatever a library says of what is no such file
        raise ValueError(f"no Parquet file: {error}") from error
    for name in (stamp, *names):
        _find_column(columns, name)
    if rows > MAX_ROWS or size > MAX_DATA_BYTES:
        raise ValueError(f"{rows} rows and {size} bytes are too many")
    try:
        table = opened.to_pandas(columns=list({stamp: None, **dict.fromkeys(names)}), index=False)
    except Exception as error:
        raise ValueError(f"a damaged Parquet file: {error}") from error
    columns_of = [table[name] for name in names]
    for value, *values in zip(table[stamp].astype(object), *columns_of, strict=True):
        text = value if isinstance(value, str) else value.to_pydatetime(warn=False).isoformat()
        yield _read_moment(text), tuple(map(float, values))


def _find_column(header: Sequence[str], name: str) -> int:
    if header.count(name) != 1:
        raise ValueError(f"{header.count(name)} columns are called {name!r:.40}")
    return header.index(name)


def _read_moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
