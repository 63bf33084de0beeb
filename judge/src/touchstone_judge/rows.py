"""The rows that are judged, and the predictions of them that a training has left."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Final

import numpy as np
import numpy.typing as npt

from touchstone_judge.data import MarketData
from touchstone_judge.errors import JudgeFault, NotJudged, show
from touchstone_judge.panel import FloatArray
from touchstone_judge.rules import Rules

FILE: Final = "predictions.csv"
COLUMNS: Final = ("time", "part", "score_long", "score_short")
VALIDATION: Final = "validation"
TEST: Final = "test"
MAX_BYTES: Final = 8 * 1024**2
_MAX_LINE: Final = 200
_NUMBER: Final = re.compile(r"-?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_MIN_ROWS: Final = 60

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class JudgedRows:
    """
    Positions of rows within the market data, increasing.

    :param train_until: Last day that a training row may have; its outcome is known before the first
        validation row.
    :param validation: Rows that scale positions.
    :param test: Rows that are judged.
    """

    train_until: date
    validation: Indices
    test: Indices


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """
    What a training predicts, in the order of :class:`JudgedRows`.

    :param validation: Long minus short score of the validation rows.
    :param long: Score of the long model of the test rows.
    :param short: The same of the short model.
    """

    validation: FloatArray
    long: FloatArray
    short: FloatArray


def find_rows(data: MarketData, rules: Rules, interval: int) -> JudgedRows:
    """
    Return which rows count for an interval.

    A row belongs to a part if both its own day and the day of its outcome do; of a test row, the
    outcome must have come by the data's end.

    :param interval: Rows that a prediction looks ahead.
    :raises JudgeFault: If the rules leave too few.
    """
    days = data.days
    outcome = days[interval:]
    # Rows without an outcome in the data are cut off by ``zip``.
    pairs = list(zip(days, outcome, strict=False))
    validation = [
        row
        for row, (day, known) in enumerate(pairs)
        if rules.validation_from <= day and known < rules.test_from
    ]
    test = [
        row
        for row, (day, _) in enumerate(pairs)
        if rules.test_from <= day and (rules.test_to is None or day <= rules.test_to)
    ]
    train = [day for day, known in pairs if known < rules.validation_from]
    if min(len(train), len(validation), len(test)) < _MIN_ROWS:
        raise JudgeFault(f"the rules leave too few rows for an interval of {interval}")
    return JudgedRows(
        train_until=train[-1],
        validation=np.array(validation, dtype=np.intp),
        test=np.array(test, dtype=np.intp),
    )


def write_time(day: date) -> str:
    """Return a row's time as text: midnight of its day, UTC."""
    return datetime.combine(day, time(), tzinfo=UTC).isoformat()


def read_predictions(content: bytes, data: MarketData, rows: JudgedRows) -> Predictions:
    """
    Return the predictions of exactly these rows.

    :param content: The file, which anybody may have written.
    :raises NotJudged: If it has other rows, or what is no probability; names the first.
    """
    expected = [
        *((VALIDATION, data.days[row]) for row in rows.validation),
        *((TEST, data.days[row]) for row in rows.test),
    ]
    found = list(_parse(content, limit=2 * len(expected)))
    _check_rows([(part, day) for part, day, _, _ in found], expected)
    long = np.array([scores[2] for scores in found])
    short = np.array([scores[3] for scores in found])
    border = len(rows.validation)
    return Predictions(
        validation=long[:border] - short[:border], long=long[border:], short=short[border:]
    )


def _parse(content: bytes, limit: int) -> Iterator[tuple[str, date, float, float]]:
    if len(content) > MAX_BYTES:
        raise NotJudged(f"{FILE}: has more than {MAX_BYTES} bytes")
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError as error:
        raise NotJudged(f"{FILE}: is no plain text at byte {error.start}") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        if tuple(header) != COLUMNS:
            raise NotJudged(f"{FILE}: has the columns {show(','.join(header))}, not {_HEADER}")
        for number, cells in enumerate(reader, start=2):
            if number > limit + 1:
                raise NotJudged(f"{FILE}: has more than {limit} rows")
            yield _parse_row(cells, number)
    except csv.Error as error:
        raise NotJudged(f"{FILE}: line {reader.line_num} is no CSV: {show(str(error))}") from error


_HEADER: Final = ",".join(COLUMNS)


def _parse_row(cells: Sequence[str], number: int) -> tuple[str, date, float, float]:
    if len(cells) != len(COLUMNS) or sum(map(len, cells)) > _MAX_LINE:
        raise NotJudged(f"{FILE}: line {number} has not exactly the fields {_HEADER}")
    stamp, part, *scores = cells
    day = _parse_day(stamp, number)
    if part not in (VALIDATION, TEST):
        raise NotJudged(f"{FILE}: line {number}: {show(part)} is no part: {VALIDATION} or {TEST}")
    values = []
    for name, cell in zip(COLUMNS[2:], scores, strict=True):
        value = float(cell) if _NUMBER.fullmatch(cell) else math.nan
        if not 0 <= value <= 1:
            raise NotJudged(f"{FILE}: {name} of {day} is {show(cell)}, not a number from 0 to 1")
        values.append(value)
    return part, day, values[0], values[1]


def _parse_day(text: str, number: int) -> date:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise NotJudged(f"{FILE}: line {number}: the time {show(text)} names no zone")
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise NotJudged(f"{FILE}: line {number}: {show(text)} is no time") from error
    if moment.time() != time():
        raise NotJudged(f"{FILE}: {show(text)} is no row of the market data")
    return moment.date()


def _check_rows(found: Sequence[tuple[str, date]], expected: Sequence[tuple[str, date]]) -> None:
    """
    Refuse other rows than the expected ones.

    :raises NotJudged: Naming the first that is foreign, in another part, there twice, missing, or
        out of order.
    """
    parts = {day: part for part, day in expected}
    seen: set[date] = set()
    for part, day in found:
        if day not in parts:
            raise NotJudged(f"other rows ({FILE}: {day} is none of them)")
        if part != parts[day]:
            raise NotJudged(f"other rows ({FILE}: {day} is a {parts[day]} row, not a {part} row)")
        if day in seen:
            raise NotJudged(f"other rows ({FILE}: {day} is there twice)")
        seen.add(day)
    missing = [day for _, day in expected if day not in seen]
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise NotJudged(f"other rows ({FILE}: {missing[0]} is missing{more})")
    for (_, day), (_, due) in zip(found, expected, strict=True):
        if day != due:
            raise NotJudged(f"other rows ({FILE}: {day} stands where {due} should)")
