"""Data sets: what a folder with ``data.toml`` and one data file says of itself. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import date
from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    model_serializer,
    model_validator,
)

from touchstone.core.documents import Line, explain, read_toml, shorten
from touchstone_agent.protocol.errors import ConfigurationError

SCHEMA_VERSION: Final = 1
FILE: Final = "data.toml"
"""The file that describes a data set, beside its data file."""
CANNED: Final = "sp500"
"""The data set that is built in; no other is called so."""
CANNED_BARS: Final = 252
CANNED_FIRST: Final = date(1999, 1, 4)
CANNED_LAST: Final = date(2018, 12, 31)
"""Its first and its last bar."""
MAX_NAME: Final = 40
MAX_INSTRUMENTS: Final = 100
MAX_COLUMNS: Final = 500
MAX_TEXT_BYTES: Final = 64 * 1024
"""Longest ``data.toml``."""

_NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_VERSION: Final = re.compile(r"[a-z0-9][a-z0-9._-]*")
_PLAIN_FILE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.(csv|csv\.gz|parquet)")
_SPAN: Final = re.compile(r"([1-9][0-9]{0,4})(min|h|d)")
_MINUTES: Final = {"min": 1, "h": 60, "d": 24 * 60}
_MAX_MINUTES: Final = 366 * 24 * 60


def _check_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"{shorten(value)} is not of a-z, 0-9 and single dashes between them")
    return value


def _check_version(value: str) -> str:
    if not _VERSION.fullmatch(value):
        raise ValueError(
            f"{shorten(value)} is not of a-z, 0-9, dots, dashes and underscores, a letter or a "
            "digit first"
        )
    return value


def _check_file(value: str) -> str:
    if not _PLAIN_FILE.fullmatch(value):
        raise ValueError(
            f"{shorten(value)} is no plain name of a file in the same folder that ends in .csv, "
            ".csv.gz or .parquet"
        )
    return value


def _check_span(value: str) -> str:
    if measure_minutes(value) > _MAX_MINUTES:
        raise ValueError(f"{shorten(value)} is longer than a year")
    return value


def _check_delay(value: str) -> str:
    return value if value == AT_BAR else _check_span(value)


AT_BAR: Final = "bar"
"""A column whose value is known when its own bar ends."""

Name = Annotated[
    str, StringConstraints(strict=True, max_length=MAX_NAME), AfterValidator(_check_name)
]
Version = Annotated[
    str, StringConstraints(strict=True, max_length=MAX_NAME), AfterValidator(_check_version)
]
Key = Annotated[Line, Field(min_length=1, max_length=100)]
"""Name of a column, or of an instrument."""
Sha256 = Annotated[str, StringConstraints(strict=True, pattern=r"^[0-9a-f]{64}$")]
Span = Annotated[str, StringConstraints(strict=True, max_length=8), AfterValidator(_check_span)]
Delay = Annotated[str, StringConstraints(strict=True, max_length=8), AfterValidator(_check_delay)]
Day = Annotated[date, Field(strict=True)]


class Calendar(StrEnum):
    """When an instrument is traded: so many days a year, so many hours a day."""

    XNYS = "XNYS"
    WEEKDAYS = "24x5"
    ALWAYS = "24x7"

    @property
    def days(self) -> int:
        """Return its days a year."""
        return {Calendar.XNYS: 252, Calendar.WEEKDAYS: 260, Calendar.ALWAYS: 365}[self]

    @property
    def hours(self) -> float:
        """Return its hours a day."""
        return 6.5 if self is Calendar.XNYS else 24.0


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataRows(_Table):
    """
    Where validation and test begin, unless an event says otherwise.

    :param validation_from: First day of the validation rows, UTC.
    :param test_from: First day of the test rows, UTC.
    """

    validation_from: Day
    test_from: Day

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.validation_from >= self.test_from:
            raise ValueError("test_from is not after validation_from; swap them")
        return self


class Instrument(_Table):
    """
    What has prices.

    :param role: The traded one is predicted; a reference is only looked at.
    :param close: The column of its closes.
    """

    role: Literal["traded", "reference"]
    close: Key


class Column(_Table):
    """
    A column that features may see.

    :param instrument: What it is of.
    :param available_at: ``bar`` if it is known when its own bar ends; or how much later it is.
    """

    instrument: Key
    available_at: Delay = AT_BAR


class DataSet(_Table):
    """
    A data set as its ``data.toml`` has it.

    :param schema_version: Version of the file's form.
    :param name: What it is called.
    :param version: Which edition of it.
    :param title: What people call it.
    :param file: The data file, in the same folder.
    :param sha256: Digest of that file.
    :param frequency: Length of a bar.
    :param calendar: When bars are there.
    :param time: The column with a bar's time.
    :param rows: Where validation and test begin.
    :param instruments: What has prices, by name; exactly one is traded.
    :param columns: What features may see, by the column's name.
    """

    schema_version: Literal[1] = 1
    name: Name
    version: Version
    title: Line = ""
    file: Annotated[
        str, StringConstraints(strict=True, max_length=100), AfterValidator(_check_file)
    ]
    sha256: Sha256
    frequency: Span
    calendar: Calendar
    time: Key
    rows: DataRows
    instruments: Annotated[
        Mapping[Key, Instrument], Field(min_length=1, max_length=MAX_INSTRUMENTS)
    ]
    columns: Annotated[Mapping[Key, Column], Field(min_length=1, max_length=MAX_COLUMNS)]

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        if self.name == CANNED:
            raise ValueError(f"name: {CANNED!r} is the data set that is built in; choose another")
        traded = [name for name, each in self.instruments.items() if each.role == "traded"]
        if len(traded) != 1:
            raise ValueError(
                f"instruments: {len(traded)} of them have the role traded; give it to exactly one"
            )
        closes = [each.close for each in self.instruments.values()]
        if self.time in {*closes, *self.columns}:
            raise ValueError(f"time: {shorten(self.time)} is a column of values; name another")
        for name, column in self.columns.items():
            if column.instrument not in self.instruments:
                raise ValueError(
                    f"columns.{shorten(name)}.instrument: there is no instrument "
                    f"{shorten(column.instrument)}; add it, or name one of [instruments]"
                )
        minutes = measure_minutes(self.frequency)
        if not self.frequency.endswith("d") and minutes > self.calendar.hours * 60:
            raise ValueError(
                f"frequency: {self.frequency} is longer than a day of {self.calendar.value}, "
                f"which has {self.calendar.hours:g} hours; write it in d"
            )
        if self.bars_per_year < 1:
            raise ValueError(
                f"frequency: {self.frequency} leaves no bar a year by {self.calendar.value}"
            )
        return self

    @property
    def bars_per_year(self) -> int:
        """Return the bars a year that follow from calendar and frequency."""
        days = self.calendar.days
        if self.frequency.endswith("d"):
            return round(days / int(self.frequency[:-1]))
        return round(days * self.calendar.hours * 60 / measure_minutes(self.frequency))

    @property
    def label(self) -> str:
        """Return name and version, as a training tells them."""
        return build_label(self.name, self.version)


class PinnedData(BaseModel):
    """
    A data set as a task gets it, with the rows of the event that it is trained for.

    :param name: Its name.
    :param version: Its version.
    :param digest: Of ``data.toml`` and the data file, one after the other.
    :param sha256: Digest of the archive.
    :param size: The archive's size in bytes.
    :param validation_from: First day of the validation rows.
    :param test_from: First day of the judged rows.
    :param test_to: Last one; ``None`` for all there are.
    :param bars_per_year: To annualise with.
    :param is_private: Whether it is at the servers that hold it alone; it has no archive then.
    """

    # Written to records and read by the version before or after this one.
    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    version: str
    digest: str
    sha256: str
    size: int
    validation_from: date
    test_from: date
    test_to: date | None = None
    bars_per_year: int
    is_private: bool = False

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, object]:
        written: dict[str, object] = write(self)
        if not self.is_private:
            # As the versions wrote it that knew of no other.
            written.pop("is_private", None)
        return written

    @property
    def label(self) -> str:
        """Return name and version, as a training tells them."""
        return build_label(self.name, self.version)


def tell_data(data: PinnedData | None) -> str:
    """Return what something is trained on, as a message tells it."""
    if data is None:
        return CANNED
    last = "" if data.test_to is None else f" to {data.test_to}"
    return f"{data.label}, rows from {data.validation_from} and {data.test_from}{last}"


_KNOWN: Final = frozenset(
    name for model in (DataSet, DataRows, Instrument, Column) for name in model.model_fields
)


def parse_data_set(text: str) -> DataSet:
    """
    Check a ``data.toml``.

    :param text: TOML.
    :raises ConfigurationError: Naming the first key that is wrong, what it is, and what it should
        be.
    """
    try:
        if len(text.encode(errors="surrogatepass")) > MAX_TEXT_BYTES:
            raise ConfigurationError(f"has more than {MAX_TEXT_BYTES} bytes; leave columns out")
        if text.startswith("\ufeff"):
            # TOML has none: a trainer would refuse it only when it is too late.
            raise ConfigurationError("begins with a byte order mark; save it without one")
        document = read_toml(text, what=FILE, version=SCHEMA_VERSION)
        try:
            return DataSet.model_validate(document)
        except ValidationError as error:
            raise ConfigurationError(explain(error, known=_KNOWN)) from error
    except ConfigurationError as error:
        message = str(error)
        raise ConfigurationError(
            message if message.startswith(FILE) else f"{FILE}: {message}"
        ) from error


def check_data_name(name: str) -> str:
    """
    Return what can be a data set's name.

    :raises ConfigurationError: If it cannot: it is a part of addresses and of keys.
    """
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"data: {shorten(name)} cannot be a data set's name: up to {MAX_NAME} of a-z, 0-9 and "
            "single dashes between them"
        )
    return name


def build_label(name: str, version: str) -> str:
    """Return name and version as one text."""
    return f"{name} {version}"


def build_digest(text: bytes, data: bytes) -> str:
    """
    Return the digest of a data set.

    :param text: The bytes of ``data.toml``.
    :param data: The bytes of the data file.
    """
    digest = hashlib.sha256(text)
    digest.update(data)
    return digest.hexdigest()


def measure_minutes(span: str) -> int:
    """
    Return how many minutes a frequency or a delay has.

    :param span: A whole number and ``min``, ``h`` or ``d``.
    :raises ValueError: If it is of another form.
    """
    match = _SPAN.fullmatch(span)
    if match is None:
        raise ValueError(f"{shorten(span)} is not a whole number and one of min, h, d, such as 1h")
    return int(match[1]) * _MINUTES[match[2]]
