"""The rows that are judged, and the predictions of them that a training has left."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import Final

import numpy as np
import numpy.typing as npt

from touchstone_judge.data import MarketData
from touchstone_judge.errors import JudgeFault, NotJudged, show
from touchstone_judge.panel import FloatArray
from touchstone_judge.rules import Rules, find_start, is_behind

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

    :param train_until: The last row that may be a training row; its outcome is known before the
        first validation row.
    :param validation: Rows that scale positions.
    :param test: Rows that are judged.
    """

    train_until: int
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

    A row belongs to a part if both its own time and the time of its outcome do; of a test row, the
    outcome must have come by the data's end.

    :param interval: Rows that a prediction looks ahead.
    :raises JudgeFault: If the rules leave too few.
    """
    validation_from, test_from = find_start(rules.validation_from), find_start(rules.test_from)
    outcome = data.times[interval:]
    # Rows without an outcome in the data are cut off by ``zip``.
    pairs = list(zip(data.times, outcome, strict=False))
    validation = [
        row
        for row, (moment, known) in enumerate(pairs)
        if validation_from <= moment and known < test_from
    ]
    test = [
        row
        for row, (moment, _) in enumerate(pairs)
        if test_from <= moment and (rules.test_to is None or not is_behind(moment, rules.test_to))
    ]
    train = [row for row, (_, known) in enumerate(pairs) if known < validation_from]
    if min(len(train), len(validation), len(test)) < _MIN_ROWS:
        raise JudgeFault(f"the rules leave too few rows for an interval of {interval}")
    return JudgedRows(
        train_until=train[-1],
        validation=np.array(validation, dtype=np.intp),
        test=np.array(test, dtype=np.intp),
    )


def read_predictions(content: bytes, data: MarketData, rows: JudgedRows) -> Predictions:
    """
    Return the predictions of exactly these rows.

    :param content: The file, which anybody may have written.
    :raises NotJudged: If it has other rows, or what is no probability; names the first.
    """
    expected = [
        *((VALIDATION, data.times[row]) for row in rows.validation),
        *((TEST, data.times[row]) for row in rows.test),
    ]
    # Where its day names a bar, what is of another hour is none.
    is_daily = data.is_daily
    found = list(_parse(content, limit=2 * len(expected), is_daily=is_daily))
    _check_rows([(part, moment) for part, moment, _, _ in found], expected, is_daily=is_daily)
    long = np.array([scores[2] for scores in found])
    short = np.array([scores[3] for scores in found])
    border = len(rows.validation)
    return Predictions(
        validation=long[:border] - short[:border], long=long[border:], short=short[border:]
    )


def _parse(
    content: bytes, *, limit: int, is_daily: bool
) -> Iterator[tuple[str, datetime, float, float]]:
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
            yield _parse_row(cells, number, is_daily=is_daily)
    except csv.Error as error:
        raise NotJudged(f"{FILE}: line {reader.line_num} is no CSV: {show(str(error))}") from error


_HEADER: Final = ",".join(COLUMNS)


def _parse_row(
    cells: Sequence[str], number: int, *, is_daily: bool
) -> tuple[str, datetime, float, float]:
    if len(cells) != len(COLUMNS) or sum(map(len, cells)) > _MAX_LINE:
        raise NotJudged(f"{FILE}: line {number} has not exactly the fields {_HEADER}")
    stamp, part, *scores = cells
    moment = _parse_time(stamp, number, is_daily=is_daily)
    if part not in (VALIDATION, TEST):
        raise NotJudged(f"{FILE}: line {number}: {show(part)} is no part: {VALIDATION} or {TEST}")
    values = []
    for name, cell in zip(COLUMNS[2:], scores, strict=True):
        value = float(cell) if _NUMBER.fullmatch(cell) else math.nan
        if not 0 <= value <= 1:
            when = _name(moment, is_daily=is_daily)
            raise NotJudged(f"{FILE}: {name} of {when} is {show(cell)}, not a number from 0 to 1")
        values.append(value)
    return part, moment, values[0], values[1]


def _parse_time(text: str, number: int, *, is_daily: bool) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise NotJudged(f"{FILE}: line {number}: the time {show(text)} names no zone")
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise NotJudged(f"{FILE}: line {number}: {show(text)} is no time") from error
    if is_daily and moment.time() != time():
        raise NotJudged(f"{FILE}: {show(text)} is no row of the market data")
    return moment


def _name(moment: datetime, *, is_daily: bool) -> str:
    return moment.date().isoformat() if is_daily else moment.isoformat()


def _check_rows(
    found: Sequence[tuple[str, datetime]],
    expected: Sequence[tuple[str, datetime]],
    *,
    is_daily: bool,
) -> None:
    """
    Refuse other rows than the expected ones.

    :raises NotJudged: Naming the first that is foreign, in another part, there twice, missing, or
        out of order.
    """
    parts = {moment: part for part, moment in expected}
    seen: set[datetime] = set()
    for part, moment in found:
        when = _name(moment, is_daily=is_daily)
        if moment not in parts:
            raise NotJudged(f"other rows ({FILE}: {when} is none of them)")
        if part != parts[moment]:
            due = parts[moment]
            raise NotJudged(f"other rows ({FILE}: {when} is a {due} row, not a {part} row)")
        if moment in seen:
            raise NotJudged(f"other rows ({FILE}: {when} is there twice)")
        seen.add(moment)
    missing = [moment for _, moment in expected if moment not in seen]
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        when = _name(missing[0], is_daily=is_daily)
        raise NotJudged(f"other rows ({FILE}: {when} is missing{more})")
    for (_, moment), (_, due_moment) in zip(found, expected, strict=True):
        if moment != due_moment:
            when, due = (_name(each, is_daily=is_daily) for each in (moment, due_moment))
            raise NotJudged(f"other rows ({FILE}: {when} stands where {due} should)")
