"""
A data set of one's own: a folder with ``data.toml`` and one data file, and nothing believed of it.

What is wrong with one is the fault of its author, never a submitter's.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
import tomllib
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elnigma.data import CANNED, Follower, Group, MarketData, cut_behind
from elnigma.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

FILE = "data.toml"
MAX_TEXT_BYTES = 64 * 1024
MAX_FILE_BYTES = 256 * 1024**2
"""Of the data file, and of what is unpacked of one."""
MAX_ROWS = 100_000
MAX_INSTRUMENTS = 100
MAX_COLUMNS = 500
AT_BAR = "bar"
"""Of a column whose value is known when its own bar ends."""
CALENDARS = {"XNYS": (252, 6.5), "24x5": (260, 24.0), "24x7": (365, 24.0)}
"""Days a year and hours a day."""

_MAX_TEXT = 200
_MAX_NAME = 40
_MAX_KEY = 100
_MAX_FOLLOWERS = 16
_MOST_SHOWN = 60
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_VERSION = re.compile(r"[a-z0-9][a-z0-9._-]*")
_PLAIN_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.(csv|csv\.gz|parquet)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SPAN = re.compile(r"([1-9][0-9]{0,4})(min|h|d)")
_MINUTES = {"min": 1, "h": 60, "d": 24 * 60}
_MAX_MINUTES = 366 * 24 * 60
_YEARS = range(1700, 2200)
# What is within these of the close of its bar, in each row, is a price of the same instrument.
_PRICE_SHARES = (0.5, 2.0)


@dataclass(frozen=True, kw_only=True)
class Instrument:
    """
    What has prices.

    :param name: By which columns name it.
    :param is_traded: Whether it is predicted; one is.
    :param close: The file's column of its closes.
    """

    name: str
    is_traded: bool
    close: str


@dataclass(frozen=True, kw_only=True)
class Column:
    """
    A column that features may see.

    :param name: In the file, and in what features get.
    :param instrument: Name of what it is of.
    :param delay: How long after the end of its bar a value is known.
    """

    name: str
    instrument: str
    delay: timedelta


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """
    A data set by its ``data.toml``; the data file is read by :meth:`load`.

    :param folder: Where it is.
    :param name: What it is called.
    :param version: Which edition of it.
    :param file: Name of the data file.
    :param sha256: Digest of that file.
    :param bar: Length of a bar.
    :param bars_per_year: By calendar and frequency.
    :param time: The column with a bar's time.
    :param validation_from: First day of the validation rows.
    :param test_from: First day of the test rows.
    :param instruments: What has prices, in the file's order.
    :param columns: What features may see, in the file's order.
    :param text: The bytes of ``data.toml``.
    """

    folder: Path
    name: str
    version: str
    file: str
    sha256: str
    bar: timedelta
    bars_per_year: int
    time: str
    validation_from: date
    test_from: date
    instruments: tuple[Instrument, ...]
    columns: tuple[Column, ...]
    text: bytes

    @property
    def label(self) -> str:
        """Return name and version, as a training tells them."""
        return f"{self.name} {self.version}"

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings of a training that this data set has defaults of its own for."""
        return {
            "split.validation_from": self.validation_from.isoformat(),
            "split.test_from": self.test_from.isoformat(),
            "backtest.bars_per_year": self.bars_per_year,
        }

    def load(self, until: str | None = None) -> MarketData:
        """
        Read the data file.

        :param until: Last day to include, ``YYYY-MM-DD``; ``None`` for all.
        :raises DataError: If it is missing, damaged, too short, or another one.
        :raises ConfigError: If the data begin behind ``until``.
        """
        content = _read_file(self.folder / self.file, MAX_FILE_BYTES)
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise DataError(
                f"{self.file}: has the sha256 {found}, {FILE} says {self.sha256}; "
                "take the file that it was made of, or write its digest there"
            )
        table = _read_table(self, content)
        _check_rows(self, table.index)
        market = _build_market(self, table, hashlib.sha256(self.text + content).hexdigest())
        return market if until is None else cut_behind(market, until)

    def load_for_validation(self) -> MarketData:
        """
        Return the rows of the training: a validation sees none of those behind them.

        :raises DataError: If the data file is missing, damaged, too short, or another one.
        """
        import pandas as pd

        market = self.load()
        border = pd.Timestamp(self.validation_from, tz="UTC")
        return market.cut(int(market.frame.index.searchsorted(border)))


def read_data_set(folder: Path) -> DataSet:
    """
    Read a data set's ``data.toml``.

    :param folder: Where it is.
    :raises DataError: Naming the key that is wrong, what was found, and what was expected.
    """
    text = _read_file(folder / FILE, MAX_TEXT_BYTES)
    try:
        document = tomllib.loads(text.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise DataError(f"{FILE}: is not valid TOML: {_show(str(error))}") from error
    top = _Table("", document)
    version = top.take("schema_version", int, default=1)
    if version != 1:
        raise DataError(f"{FILE}: schema_version is {_show(version)}, this trainer reads 1")
    name = top.take_text("name", _NAME, "a-z, 0-9 and single dashes", _MAX_NAME)
    edition = top.take_text("version", _VERSION, "a-z, 0-9, '.', '-' and '_'", _MAX_NAME)
    top.take("title", str, default="")
    file = top.take_text("file", _PLAIN_FILE, "a plain name, .csv, .csv.gz or .parquet", _MAX_KEY)
    sha256 = top.take_text("sha256", _SHA256, "64 hexadecimal digits", 64)
    frequency = top.take("frequency", str)
    bar = _read_span(f"{FILE}: frequency", frequency)
    calendar = top.take("calendar", str)
    bars = count_bars(frequency, calendar)
    time = top.take_key("time")
    rows = top.take_table("rows")
    days = rows.take_day("validation_from"), rows.take_day("test_from")
    if days[0] >= days[1]:
        raise DataError(
            f"{FILE}: rows.test_from is {days[1]}, not after validation_from, which is {days[0]}"
        )
    rows.end()
    instruments = tuple(_read_instruments(top.take_table("instruments")))
    columns = tuple(_read_columns(top.take_table("columns"), instruments))
    if time in {*(each.name for each in columns), *(each.close for each in instruments)}:
        raise DataError(f"{FILE}: time is {_show(time)}, which is a column of values, too")
    top.end()
    return DataSet(
        folder=folder,
        name=name,
        version=edition,
        file=file,
        sha256=sha256,
        bar=bar,
        bars_per_year=bars,
        time=time,
        validation_from=days[0],
        test_from=days[1],
        instruments=instruments,
        columns=columns,
        text=text,
    )


def find_data_set(argument: str | None, given: Path | None) -> DataSet | None:
    """
    Return the data set that is worked on; ``None`` for the data that are built in.

    :param argument: A folder, or :data:`elnigma.data.CANNED`; ``None`` if nobody named one.
    :param given: The folder that came with the task, if there is one.
    :raises DataError: If there is something wrong with it.
    """
    if argument == CANNED:
        return None
    folder = given if argument is None else Path(argument)
    return None if folder is None else read_data_set(folder.absolute())


def find_hidden(data_set: DataSet | None, given: Path | None) -> str | None:
    """
    Return the folder in which submitted code must not read; ``None`` for no such folder.

    :param data_set: The one that is worked on.
    :param given: The folder that came with the task, if there is one.
    """
    folder = given if data_set is None else data_set.folder
    return None if folder is None else str(folder)


def count_bars(frequency: str, calendar: str) -> int:
    """
    Return how many bars a year has.

    :param frequency: Length of a bar.
    :param calendar: When there are bars; a key of :data:`CALENDARS`.
    :raises DataError: If there is no such calendar, or a bar is longer than its day.
    """
    if calendar not in CALENDARS:
        known = ", ".join(CALENDARS)
        raise DataError(f"{FILE}: calendar is {_show(calendar)}, not one of {known}")
    days, hours = CALENDARS[calendar]
    bar = _read_span(f"{FILE}: frequency", frequency)
    if frequency.endswith("d"):
        bars = round(days / bar.days)
    else:
        if bar > timedelta(hours=hours):
            raise DataError(
                f"{FILE}: frequency is {frequency}, a day of {calendar} has {hours:g} hours; "
                "write it in d"
            )
        bars = round(days * timedelta(hours=hours) / bar)
    if bars < 1:
        raise DataError(f"{FILE}: frequency is {frequency}, which leaves no bar a year")
    return bars


def _read_instruments(table: _Table) -> Iterable[Instrument]:
    names = table.take_names(MAX_INSTRUMENTS)
    traded = 0
    for name in names:
        each = table.take_table(name)
        role = each.take("role", str)
        if role not in ("traded", "reference"):
            raise DataError(f"{FILE}: {each.name}role is {_show(role)}, not traded or reference")
        traded += role == "traded"
        yield Instrument(name=name, is_traded=role == "traded", close=each.take_key("close"))
        each.end()
    if traded != 1:
        raise DataError(
            f"{FILE}: instruments: {traded} have the role traded; give it to exactly one"
        )


def _read_columns(table: _Table, instruments: tuple[Instrument, ...]) -> Iterable[Column]:
    known = {each.name for each in instruments}
    for name in table.take_names(MAX_COLUMNS):
        each = table.take_table(name)
        instrument = each.take("instrument", str)
        if instrument not in known:
            raise DataError(
                f"{FILE}: {each.name}instrument is {_show(instrument)}, which [instruments] has not"
            )
        at = each.take("available_at", str, default=AT_BAR)
        delay = timedelta() if at == AT_BAR else _read_span(f"{FILE}: {each.name}available_at", at)
        each.end()
        yield Column(name=name, instrument=instrument, delay=delay)


class _Table:
    """
    A table of ``data.toml``, of which every key is taken, or refused by its name.

    :param name: Its full name with a dot behind it; empty for the whole file.
    :param values: What it has.
    """

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        self.name = name
        self._values = dict(values)

    def take(self, key: str, kind: type, *, default: Any = None) -> Any:
        """Return the value of a key, which is of that type."""
        if key not in self._values:
            if default is not None:
                return default
            raise DataError(f"{FILE}: {self.name}{key} is missing")
        value = self._values.pop(key)
        if type(value) is not kind:
            raise DataError(f"{FILE}: {self.name}{key} is {_show(value)}, not {_KINDS[kind]}")
        if isinstance(value, str) and (len(value) > _MAX_TEXT or not f"x{value}".isprintable()):
            raise DataError(
                f"{FILE}: {self.name}{key} is no line of {_MAX_TEXT} characters at most"
            )
        return value

    def take_text(self, key: str, form: re.Pattern[str], words: str, most: int) -> str:
        """Return a text of that form."""
        value: str = self.take(key, str)
        if len(value) > most or not form.fullmatch(value):
            raise DataError(
                f"{FILE}: {self.name}{key} is {_show(value)}, not {words} ({most} at most)"
            )
        return value

    def take_key(self, key: str) -> str:
        """Return the name of a column of the data file."""
        value: str = self.take(key, str)
        _check_key(f"{self.name}{key}", value)
        return value

    def take_day(self, key: str) -> date:
        """Return a day."""
        value: date = self.take(key, date)
        return value

    def take_table(self, key: str) -> _Table:
        """Return a table in this one."""
        return _Table(f"{self.name}{key}.", self.take(key, dict))

    def take_names(self, most: int) -> list[str]:
        """Return the names of the tables in this one."""
        if not 1 <= len(self._values) <= most:
            found = len(self._values)
            raise DataError(f"{FILE}: [{self.name[:-1]}] has {found} entries, not 1 to {most}")
        for name in self._values:
            _check_key(f"a name in [{self.name[:-1]}]", name)
        return list(self._values)

    def end(self) -> None:
        """Refuse what nobody took."""
        if self._values:
            names = ", ".join(_show(self.name + key) for key in sorted(self._values)[:5])
            raise DataError(f"{FILE}: unknown key {names}; leave it out")


_KINDS = {
    int: "a whole number",
    str: "a text",
    date: "a day, written 2017-10-01 without quotes",
    dict: "a table",
}


def _check_key(where: str, value: str) -> None:
    if not 1 <= len(value) <= _MAX_KEY or not value.isprintable():
        raise DataError(f"{FILE}: {where} is {_show(value)}, not 1 to {_MAX_KEY} characters")


def _read_span(where: str, text: str) -> timedelta:
    match = _SPAN.fullmatch(text)
    minutes = int(match[1]) * _MINUTES[match[2]] if match else 0
    if not 1 <= minutes <= _MAX_MINUTES:
        raise DataError(
            f"{where} is {_show(text)}, not a whole number and one of min, h, d, a year at most"
        )
    return timedelta(minutes=minutes)


def _show(value: object) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    text = "".join(each if each.isprintable() else "?" for each in text[: 2 * _MOST_SHOWN])
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 1]}…"


def _read_file(path: Path, most: int) -> bytes:
    try:
        if not path.is_file():
            raise DataError(f"market data: there is no file {path.name} in the data set's folder")
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise DataError(
            f"market data: {path.name} cannot be read: {error.strerror or error}"
        ) from error
    if len(content) > most:
        raise DataError(f"{path.name}: has more than {most} bytes; leave out rows or columns")
    return content


def _read_table(data_set: DataSet, content: bytes) -> pd.DataFrame:
    """Return the columns that count by their times, whole and in order."""
    import numpy as np
    import pandas as pd

    names = dict.fromkeys(
        [each.name for each in data_set.columns] + [each.close for each in data_set.instruments]
    )
    read = _read_parquet if data_set.file.endswith(".parquet") else _read_csv
    try:
        table = read(data_set, content, [data_set.time, *names])
    except (ValueError, TypeError, OSError, EOFError, KeyError, zlib.error, csv.Error) as error:
        raise DataError(f"{data_set.file}: cannot be read: {_show(str(error))}") from error
    if len(table) > MAX_ROWS:
        raise DataError(f"{data_set.file}: has more than {MAX_ROWS} rows; leave out early ones")
    times = list(_read_times(data_set, table.pop(data_set.time)))
    index = pd.DatetimeIndex(times, name="time", tz="UTC").as_unit("us")
    steps = np.diff(index.asi8)
    if (steps <= 0).any():
        row = int(np.argmax(steps <= 0)) + 1
        raise DataError(
            f"{data_set.file}: row {row + 1} is of {index[row].isoformat()}, the one before it of "
            f"{index[row - 1].isoformat()}; times must increase, and each be there once"
        )
    table.index = index
    _check_values(data_set, table)
    return table


def _read_csv(data_set: DataSet, content: bytes, names: list[str]) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

    if data_set.file.endswith(".gz"):
        with gzip.open(io.BytesIO(content)) as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ValueError(f"is more than {MAX_FILE_BYTES} bytes when it is unpacked")
    first = content[: MAX_TEXT_BYTES * 2].partition(b"\n")[0].decode("utf-8-sig")
    _check_columns(next(csv.reader([first]), []), names)
    return pd.read_csv(
        io.BytesIO(content),
        usecols=names,
        dtype=dict.fromkeys(names[1:], np.float64) | {names[0]: object},
        encoding="utf-8-sig",
        index_col=False,
        nrows=MAX_ROWS + 1,
    )


def _read_parquet(data_set: DataSet, content: bytes, names: list[str]) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

    try:
        from fastparquet import ParquetFile
    except ImportError as error:
        raise DataError(
            f"{data_set.file}: this image reads no .parquet; give the rows as .csv.gz"
        ) from error
    try:
        file = ParquetFile(io.BytesIO(content))
        rows, columns = int(file.count()), list(file.columns)
        size = sum(
            each.meta_data.total_uncompressed_size
            for group in file.row_groups
            for each in group.columns
        )
    except Exception as error:  # whatever a library says of what is no such file
        raise ValueError(f"is no Parquet file: {error}") from error
    _check_columns(columns, names)
    if rows > MAX_ROWS or size > MAX_FILE_BYTES:
        raise ValueError(f"has more than {MAX_ROWS} rows, or {MAX_FILE_BYTES} bytes unpacked")
    try:
        table = file.to_pandas(columns=names, index=False)
    except Exception as error:
        raise ValueError(f"is a damaged Parquet file: {error}") from error
    for name in names[1:]:
        if not pd.api.types.is_numeric_dtype(table[name]):
            raise ValueError(f"column {name} holds no numbers")
    numbers: pd.DataFrame = table.astype(dict.fromkeys(names[1:], np.float64))
    return numbers


def _check_columns(found: list[str], wanted: Iterable[str]) -> None:
    for name in wanted:
        count = found.count(name)
        if count != 1:
            some = ", ".join(map(str, found[:10]))
            times = "no column" if count == 0 else f"{count} columns"
            raise ValueError(f"has {times} {name!r:.40}; it has {some}")


def _read_times(data_set: DataSet, column: pd.Series) -> Iterable[datetime]:
    import pandas as pd

    read: Callable[[Any], datetime] = datetime.fromisoformat
    if isinstance(column.dtype, pd.DatetimeTZDtype) or column.dtype.kind == "M":
        column, read = column.astype(object), _from_timestamp
    for row, value in enumerate(column):
        try:
            moment = read(value)
            moment = moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
        except (TypeError, ValueError, OverflowError, AttributeError) as error:
            raise DataError(
                f"{data_set.file}: row {row + 1}: {_show(value)} is no time in ISO 8601"
            ) from error
        if moment.year not in _YEARS:
            raise DataError(f"{data_set.file}: row {row + 1} is of the year {moment.year}")
        yield moment


def _from_timestamp(value: Any) -> datetime:
    moment = value.to_pydatetime(warn=False)
    if not isinstance(moment, datetime):
        raise TypeError("no time")
    return moment


def _check_values(data_set: DataSet, table: pd.DataFrame) -> None:
    import numpy as np

    closes = {each.close for each in data_set.instruments}
    for name in table.columns:
        values = table[name].to_numpy()
        fine = np.isfinite(values)
        kind = "a finite number"
        if name in closes:
            fine &= values > 0
            kind = "a finite number above zero"
        if not fine.all():
            row = int(np.argmin(fine))
            raise DataError(
                f"{data_set.file}: column {_show(name)} is {values[row]:g} in row {row + 1}, of "
                f"{table.index[row].isoformat()}, not {kind}; fill it, or leave the row out"
            )


def _check_rows(data_set: DataSet, index: pd.Index) -> None:
    import pandas as pd

    from elnigma.split import MIN_ROWS, MIN_TRAIN_ROWS

    first, middle = (
        int(index.searchsorted(pd.Timestamp(day, tz="UTC")))
        for day in (data_set.validation_from, data_set.test_from)
    )
    for name, rows, least in (
        ("training", first, MIN_TRAIN_ROWS),
        ("validation", middle - first, MIN_ROWS),
        ("test", len(index) - middle, MIN_ROWS),
    ):
        if rows < least:
            raise DataError(
                f"{data_set.file}: {rows} {name} rows by the [rows] of {FILE}, at least {least} "
                "are needed; give more rows, or move validation_from or test_from"
            )


def _build_market(data_set: DataSet, table: pd.DataFrame, sha256: str) -> MarketData:
    import numpy as np
    import pandas as pd

    times = pd.DatetimeIndex(table.index)
    first_judged = int(times.searchsorted(pd.Timestamp(data_set.validation_from, tz="UTC")))
    shown, first_whole = {}, 1
    for column in data_set.columns:
        values = table[column.name].to_numpy()
        if column.delay:
            # Bars are of one length: one ends so much later than another if it begins so.
            shift = pd.Timedelta(column.delay)
            known = np.asarray(times.searchsorted(times - shift, side="right")) - 1
            first = int(np.searchsorted(known, 0))
            if first >= first_judged:
                raise DataError(
                    f"{FILE}: columns.{column.name}.available_at: no training row is so late that "
                    "anything of the column is available"
                )
            first_whole = max(first_whole, first)
            values = np.where(known >= 0, values[np.maximum(known, 0)], np.nan)
        shown[column.name] = values
    frame = pd.DataFrame(shown, index=times)
    groups, followers = [], []
    for instrument in sorted(data_set.instruments, key=lambda each: not each.is_traded):
        close = table[instrument.close].to_numpy()
        prices: list[str] = []
        others: list[str] = []
        for column in data_set.columns:
            if column.instrument != instrument.name:
                continue
            values = frame[column.name].to_numpy()[first_whole:]
            share = values / close[first_whole:]
            is_price = bool(((share >= _PRICE_SHARES[0]) & (share <= _PRICE_SHARES[1])).all())
            (prices if is_price else others).append(column.name)
        groups.append(Group(close=close, columns=tuple(prices)))
        at = instrument.close if instrument.close in prices else None
        followers += [Follower(column=name, over=at) for name in prices if name != at]
        followers += [Follower(column=name) for name in others]
    return MarketData(
        frame=frame,
        sha256=sha256,
        name=data_set.label,
        groups=tuple(groups),
        references=tuple(range(1, len(groups))),
        followers=tuple(followers[:_MAX_FOLLOWERS]),
        first_whole=first_whole,
        is_short=data_set.bar < timedelta(days=1),
    )
