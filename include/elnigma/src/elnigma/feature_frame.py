"""What a feature set must return, and the one way in which it is called."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import partial
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from elnigma.errors import SubmissionError
from elnigma.loading import FEATURE_SET, explained

FeatureFunction = Callable[[pd.DataFrame], pd.DataFrame]

MAX_COLUMNS = 512
MAX_NAME_CHARACTERS = 200
# From here on a float64 leaves out every second whole number.
MAX_WHOLE = 2**53
# Two years and a bit: enough for a one-year window of a one-year window's change.
MAX_WARM_UP_ROWS = 600
# What a module may raise it to: as much again is left to train on.
MAX_DECLARED_WARM_UP_ROWS = 2000
BLOCK_MONTHS = (1, 2, 3, 4, 6, 12)
MAX_SHOWN_CHARACTERS = 60
_MAX_COLUMNS_SHOWN = 300
# Python refuses to write down what has some thousand digits.
_MOST_SHOWN = 10**50
_KEEP_INDEX = "return one row for each row of data, with data.index as it is"


def compute_features(function: FeatureFunction, data: pd.DataFrame, folder: Path | None) -> Any:
    """
    Call a feature set on its own copy of the data.

    :param function: The submitted ``build_features``.
    :param data: Market data; the function may change what it is given.
    :param folder: The submission's folder, to name the failing line.
    :raises SubmissionError: If it raises.
    """
    with explained(folder, partial(_advise_on_data, data)):
        return function(data.copy())


def _advise_on_data(data: pd.DataFrame, error: BaseException) -> str | None:
    """Name what there is, where somebody looked for what the data do not have."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    module = str(frame.tb_frame.f_globals.get("__name__", "")) if frame is not None else ""
    is_looked_for = isinstance(error, KeyError) and module.partition(".")[0] == "pandas"
    if isinstance(error, AttributeError) and isinstance(error.obj, pd.DataFrame):
        is_looked_for = str(error.name).lower() in data.columns
    if not is_looked_for:
        return None
    rows = f"{format_time(data, 0)} to {format_time(data, -1)}" if len(data) else "none"
    named = _name_rows(pd.DatetimeIndex(data.index))
    columns = ", ".join(data.columns)
    columns = columns if len(columns) <= _MAX_COLUMNS_SHOWN else f"{columns[:_MAX_COLUMNS_SHOWN]}…"
    return f"take what the data have: the columns {columns}, the {named}s {rows}"


def check_frame(features: Any, data: pd.DataFrame) -> pd.DataFrame:
    """
    Check type, index, columns and values, and return the features as ``float64``.

    :param features: What ``build_features`` returned.
    :param data: What it was given.
    :raises SubmissionError: With the first thing that is wrong.
    """
    if not isinstance(features, pd.DataFrame):
        hint = "; call .to_frame() on it" if isinstance(features, pd.Series) else ""
        raise SubmissionError(
            f"wrong type: build_features returned {_name_type(features)}; "
            f"return a pandas.DataFrame{hint}"
        )
    _check_index(features.index, pd.DatetimeIndex(data.index))
    if not 1 <= features.shape[1] <= MAX_COLUMNS:
        raise SubmissionError(
            f"wrong shape: build_features returned {features.shape[1]} columns; "
            f"return 1 to {MAX_COLUMNS}"
        )
    names = [str(column) for column in features.columns]
    for at, name in enumerate(names):
        if not name or not name.isprintable() or len(name) > MAX_NAME_CHARACTERS:
            raise SubmissionError(
                f"wrong columns: column {at + 1} is called {show(name)}, which has {len(name)} "
                f"characters; name it by 1 to {MAX_NAME_CHARACTERS} printable ones"
            )
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SubmissionError(
            f"wrong columns: {show(twice)} stands there {names.count(twice)} times; "
            "give each column a name of its own"
        )
    if (features.dtypes == np.float64).all():
        # One by one, many columns take longer than many features take to compute. Laid out as the
        # columns one by one would be: in what order numbers are added up depends on it.
        values = np.array(features.to_numpy(), order="F")
        numbers = pd.DataFrame(values, index=features.index, columns=names, copy=False)
    else:
        numbers = pd.DataFrame(
            {name: _to_numbers(name, features.iloc[:, at]) for at, name in enumerate(names)},
            index=features.index,
        )
    values = numbers.to_numpy()
    infinite = np.isinf(values)
    if infinite.any():
        row, column = map(int, np.argwhere(infinite)[0])
        raise SubmissionError(
            f"infinite values: column {show(names[column])} is "
            f"{values[row, column]:g} at {format_time(data, row)}; "
            "keep the divisor away from zero, or clip"
        )
    return numbers


def _check_index(found: pd.Index, wanted: pd.DatetimeIndex) -> None:
    if found.equals(wanted):
        return
    # Of another unit, with the same times.
    if found.dtype.kind == "M" and len(found) == len(wanted) and _has_same_times(found, wanted):
        return
    raise SubmissionError(f"wrong index: {_explain_index(found, wanted)}")


def _has_same_times(found: pd.Index, wanted: pd.DatetimeIndex) -> bool:
    zone = getattr(found, "tz", None)
    return str(zone) == str(wanted.tz) and bool((found == wanted).all())


def _explain_index(found: pd.Index, wanted: pd.DatetimeIndex) -> str:
    """Say how an index differs from the data's, and what to do about it."""
    rows = f"{len(found)} rows for {len(wanted)} of data"
    if not isinstance(found, pd.DatetimeIndex):
        first = f", first {show(found[0])}" if len(found) else ""
        undo = "leave out reset_index, " if isinstance(found, pd.RangeIndex) else ""
        return (
            f"the rows are named by {_name_type(found)} of {found.dtype}{first}, not by the "
            f"{_name_rows(wanted)}s of the data; {undo}{_KEEP_INDEX}"
        )
    if found.tz is None:
        return (
            f"the index has no time zone, the data's is in UTC (first {show(found[0])}); "
            "keep data.index, or call .tz_localize('UTC') on yours"
            if len(found)
            else f"the features have no rows; {_KEEP_INDEX}"
        )
    repeated = found[found.duplicated()]
    if len(repeated):
        return (
            f"{_day(repeated[0])} stands there more than once ({rows}); "
            f"drop duplicates, {_KEEP_INDEX}"
        )
    missing, extra = wanted.difference(found), found.difference(wanted)
    if len(missing) and len(missing) == len(extra):
        return (
            f"times of the index are others, for example {extra[0]} in place of {missing[0]}; "
            f"{_KEEP_INDEX}"
        )
    if len(missing):
        return (
            f"{_count(missing, wanted)} missing, first {_day(missing[0])} ({rows}); "
            f"leave NaN in the first rows instead of dropna, {_KEEP_INDEX}"
        )
    if len(extra):
        return f"{_count(extra, wanted)} not in the data, first {_day(extra[0])}; {_KEEP_INDEX}"
    if found.equals(wanted[::-1]):
        return (
            f"the {_name_rows(wanted)}s fall from {_day(found[0])} to {_day(found[-1])}; "
            "call .sort_index() before you return"
        )
    if str(found.tz) != str(wanted.tz):
        return f"the index is in {found.tz}, the data's in UTC; call .tz_convert('UTC') on it"
    return (
        f"the {_name_rows(wanted)}s are not in the data's order, {_day(found[0])} is first; "
        "call .sort_index() before you return"
    )


def _count(rows: pd.Index, wanted: pd.DatetimeIndex) -> str:
    named = _name_rows(wanted)
    return f"1 {named} is" if len(rows) == 1 else f"{len(rows)} {named}s are"


def _to_numbers(name: str, column: pd.Series) -> np.ndarray:
    """Return real numbers and booleans as ``float64``; nothing else is one silently."""
    dtype = column.dtype
    kind = getattr(dtype, "kind", "O")
    if kind in "biuf" and pd.api.types.is_numeric_dtype(dtype):
        # Nullable columns have a missing value of their own.
        values = column.astype("float64").to_numpy(dtype="float64", na_value=np.nan)
        large = (np.abs(values) >= MAX_WHOLE) & (kind in "iu")
        for row in map(int, np.flatnonzero(large)):
            _check_whole(name, column, int(column.iloc[row]), row)
        return values
    if pd.api.types.is_object_dtype(dtype):
        values = np.full(len(column), np.nan)
        for row, value in enumerate(column):
            if value is None or value is pd.NA or value is pd.NaT:
                continue
            if not isinstance(value, Real | Decimal | np.bool_):
                raise _wrong_dtype(name, column, value, row)
            if isinstance(value, int):
                _check_whole(name, column, value, row)
            values[row] = float(value)
        return values
    offends = column.map(np.imag) != 0 if kind == "c" else column.notna()
    row = int(np.argmax(offends.to_numpy())) if len(column) else 0
    raise _wrong_dtype(name, column, column.iloc[row] if len(column) else None, row)


def _check_whole(name: str, column: pd.Series, value: int, row: int) -> None:
    """Refuse a whole number that a float would change."""
    try:
        is_kept = int(float(value)) == value
    except OverflowError:
        is_kept = False
    if not is_kept:
        raise SubmissionError(
            f"wrong value: column {show(name)} is {show(value)} at "
            f"{format_time(column.to_frame(), row)}, which a float64 cannot hold; subtract its "
            "first value, or divide it"
        )


def _wrong_dtype(name: str, column: pd.Series, value: Any, row: int) -> SubmissionError:
    if isinstance(value, complex | np.complexfloating):
        advice = "return its .real, or numpy.abs of it"
    elif isinstance(value, str):
        advice = "turn text into numbers yourself, for example with pandas.to_numeric"
    elif isinstance(value, pd.Timestamp | pd.Timedelta):
        advice = "return a number, for example its .days or .month"
    else:
        advice = "return real numbers or booleans"
    day = f" at {format_time(column.to_frame(), row)}" if len(column) else ""
    return SubmissionError(
        f"wrong type: column {show(name)} has dtype {column.dtype}, {show(value)}{day}; {advice}"
    )


def read_warm_up_bound(module: ModuleType) -> int:
    """
    Return how many leading rows may be NaN: the usual bound, or what the module raises it to.

    :param module: The submitted module.
    :raises SubmissionError: If what it declares is no number of rows, or too many.
    """
    declared = getattr(module, "WARM_UP", 0)
    if type(declared) is not int or not 0 <= declared <= MAX_DECLARED_WARM_UP_ROWS:
        raise SubmissionError(
            f"wrong warm-up: WARM_UP is {show(declared)} in {FEATURE_SET.file_name}; give it a "
            f"whole number of rows from 0 to {MAX_DECLARED_WARM_UP_ROWS}"
        )
    return max(declared, MAX_WARM_UP_ROWS)


def read_block_months(module: ModuleType) -> int:
    """
    Return how many months a block has, at whose end the data are cut.

    :param module: The submitted module; a slow one may declare longer blocks.
    :raises SubmissionError: If what it declares divides no year.
    """
    declared = getattr(module, "BLOCK_MONTHS", 1)
    if type(declared) is not int or declared not in BLOCK_MONTHS:
        *most, last = map(str, BLOCK_MONTHS)
        raise SubmissionError(
            f"wrong blocks: BLOCK_MONTHS is {show(declared)} in {FEATURE_SET.file_name}; give it "
            f"{', '.join(most)} or {last}"
        )
    return declared


def find_warm_up(features: pd.DataFrame, bound: int = MAX_WARM_UP_ROWS) -> int:
    """
    Return how many leading rows hold NaN in some column.

    :param features: As :func:`check_frame` returns them.
    :param bound: How many there may be; see :func:`read_warm_up_bound`.
    :raises SubmissionError: If NaN stands anywhere else, or the warm-up leaves too little.
    """
    missing = features.isna().to_numpy()
    starts = []
    for position, name in enumerate(features.columns):
        column = missing[:, position]
        if column.all():
            raise SubmissionError(
                f"NaN values: column {show(name)} is NaN in all {len(column)} rows; "
                "leave it out, or mend what it is computed from"
            )
        start = int(np.argmin(column))
        later = np.flatnonzero(column[start:])
        if later.size:
            raise SubmissionError(
                f"NaN values: column {show(name)} is NaN in {later.size} rows after its warm-up of "
                f"{start} rows, first at {format_time(features, start + int(later[0]))}; "
                "fill them from earlier rows, for example with .ffill()"
            )
        starts.append(start)
    warm_up = max(starts)
    if warm_up > bound:
        slowest = features.columns[int(np.argmax(starts))]
        can_declare = warm_up <= MAX_DECLARED_WARM_UP_ROWS
        declare = f", or declare WARM_UP = {warm_up}" if can_declare else ""
        raise SubmissionError(
            f"NaN values: column {show(slowest)} needs {warm_up} rows to warm up; "
            f"shorten its window to {bound} rows or fewer{declare}"
        )
    return warm_up


def format_time(frame: pd.DataFrame, row: int) -> str:
    """Return the day of a row, with its time if that is not midnight."""
    return _day(frame.index[row])


def show(value: Any) -> str:
    """Return a value as one bounded piece of a message."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int) and abs(value) >= _MOST_SHOWN:
        return f"a whole number of {value.bit_length()} bits"
    text = repr(str(value) if isinstance(value, pd.Timestamp | pd.Timedelta) else value)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[: MAX_SHOWN_CHARACTERS - 1]}…"


def _day(time: Any) -> str:
    if not isinstance(time, pd.Timestamp):
        return str(time.date()) if hasattr(time, "date") else str(time)
    if time == time.normalize():
        return str(time.date())
    return f"{time.date()} {time:%H:%M:%S}".removesuffix(":00")


def _name_rows(index: pd.DatetimeIndex) -> str:
    """Return what rows are: days, or bars where there are several a day."""
    return "day" if (index == index.normalize()).all() else "bar"


def _name_type(value: Any) -> str:
    kind = type(value)
    module = kind.__module__.partition(".")[0]
    return "None" if value is None else f"{module}.{kind.__name__}".removeprefix("builtins.")
