"""Forward folds: one interval trained and judged several times, each on later rows. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Final

from pydantic import BaseModel, ConfigDict

from touchstone.core.documents import shorten

LEAST_FOLDS: Final = 2
MOST_FOLDS: Final = 10
SPLIT_PREFIX: Final = "split."
"""What the trainer's own keys of rows begin with."""

_FIRST_YEAR: Final = 1700
_LAST_YEAR: Final = 2199
_DAYS_A_YEAR: Final = 365.25
_LEAST_ROWS: Final = 60
"""Rows that the trainer and the judge need of each part."""
_LEAST_TRAINED: Final = 500
"""Rows that the trainer needs to learn from."""


class Fold(BaseModel):
    """
    The rows of one fold.

    :param number: Which one, from 0; the test rows of a later one are later.
    :param count: How many there are.
    :param validation_from: First day of the rows that scale positions: what is before is learnt
        from, but for as many rows as a prediction looks ahead.
    :param test_from: First day of the rows that are judged.
    :param test_to: Last one; ``None`` for all there are.
    """

    # Written to records and read by the version before or after this one.
    model_config = ConfigDict(frozen=True, extra="ignore")

    number: int
    count: int
    validation_from: date
    test_from: date
    test_to: date | None = None

    @property
    def rows(self) -> str:
        """Return which rows are judged, as a table tells them."""
        return tell_rows(self.test_from, self.test_to)


def tell_rows(first: date, last: date | None) -> str:
    """Return which rows are judged, as a table tells them."""
    return f"from {first}" if last is None else f"{first} to {last}"


def check_fold_days(days: Sequence[date]) -> None:
    """
    Refuse days that cannot be those on which folds begin.

    :raises ValueError: Saying what to write instead.
    """
    if not days:
        return
    if not LEAST_FOLDS <= len(days) <= MOST_FOLDS:
        raise ValueError(
            f"{len(days)} {'day' if len(days) == 1 else 'days'}; give {LEAST_FOLDS} to "
            f"{MOST_FOLDS}, the first judged day of each fold, or none for no folds"
        )
    for day in days:
        if not _FIRST_YEAR <= day.year <= _LAST_YEAR:
            raise ValueError(f"{day} is beyond all data; name days from {_FIRST_YEAR} on")
    for before, after in pairwise(days):
        if after <= before:
            raise ValueError(
                f"{after} does not come after {before}; write the first judged day of each fold "
                "once, the earliest first"
            )


def list_rows(days: Sequence[date], last: date | None) -> list[tuple[date, date | None]]:
    """
    Return the first and the last judged day of each fold: one ends where the next begins.

    :param days: The first judged day of each.
    :param last: The last day that is judged at all; ``None`` for all there are.
    """
    ends: list[date | None] = [day - timedelta(days=1) for day in days[1:]]
    # Without a day there is no last fold either.
    return list(zip(days, [*ends, last], strict=False))


def build_folds(
    days: Sequence[date], *, validation_from: date, test_from: date, test_to: date | None
) -> tuple[Fold, ...]:
    """
    Return folds whose judged rows follow each other without a gap, and share none.

    Each is scaled by the rows before its own judged ones: as many days as without folds, and a year
    at most, or nothing would be left to learn from in the first.

    :param days: The first judged day of each.
    :param validation_from: Where the rows that scale positions begin without folds.
    :param test_from: Where the judged ones begin without folds.
    :param test_to: The last judged day; ``None`` for all there are.
    """
    span = test_from - validation_from
    return tuple(
        Fold(
            number=number,
            count=len(days),
            validation_from=max(first - span, _go_back_a_year(first)),
            test_from=first,
            test_to=last,
        )
        for number, (first, last) in enumerate(list_rows(days, test_to))
    )


def _go_back_a_year(day: date) -> date:
    # The 29th of February has no day of that name a year before.
    return day.replace(year=day.year - 1, day=28 if (day.month, day.day) == (2, 29) else day.day)


def find_fold_fault(
    folds: Sequence[Fold],
    *,
    bars_per_year: float,
    first_day: date | None,
    last_day: date | None,
    open_until: date | None = None,
) -> str | None:
    """
    Say why folds cannot be trained or judged, and the way out; ``None`` if nothing speaks for that.

    What the data have is known to the trainer, which looks again: here rows are told by the
    calendar, so that nobody waits for a training to learn that a fold is too short.

    :param bars_per_year: Rows a year.
    :param first_day: Of the data; ``None`` if nobody here knows.
    :param last_day: Likewise.
    :param open_until: Before that day, submitters may see what comes of a row; ``None`` for no such
        day.
    """
    earliest = folds[0]
    if open_until is not None and earliest.validation_from < open_until:
        return (
            f"the first one is scaled by rows from {earliest.validation_from}, and up to "
            f"{open_until} validations show the data to everybody; begin it later"
        )
    trained = _count_rows(first_day, earliest.validation_from, bars_per_year)
    if trained is not None and trained < _LEAST_TRAINED:
        return (
            f"before {earliest.validation_from} there are some {max(trained, 0)} rows to learn "
            f"from, and the first one, which begins on {earliest.test_from}, needs "
            f"{_LEAST_TRAINED}; begin it later"
        )
    for fold in folds:
        judged = _count_rows(fold.test_from, fold.test_to or last_day, bars_per_year)
        if judged is not None and judged < _LEAST_ROWS:
            return (
                f"the one that begins on {fold.test_from} has some {max(judged, 0)} judged rows, "
                f"and at least {_LEAST_ROWS} are needed; put the days further apart, or name fewer"
            )
    return None


def _count_rows(first: date | None, last: date | None, bars_per_year: float) -> int | None:
    if first is None or last is None:
        return None
    return round((last - first).days / _DAYS_A_YEAR * bars_per_year)


def tell_days(days: Sequence[date]) -> str:
    """Return the days on which folds begin, as the command line takes them; ``none`` for none."""
    return ",".join(day.isoformat() for day in days) or "none"


def split_days(value: object) -> object:
    """
    Return the parts of a list of days, for a field that takes one as text or as a list.

    :raises ValueError: If a text among them is no day.
    """
    if value is None:
        return ()
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        return value
    found: list[object] = []
    for item in items:
        parts = item.split(",") if isinstance(item, str) else [item]
        found += [_read_day(part) for part in parts if not isinstance(part, str) or part.strip()]
    return found


def _read_day(value: object) -> date:
    """Return a day: a number is none, which would be taken for seconds since 1970."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    try:
        return date.fromisoformat(value.strip() if isinstance(value, str) else "")
    except ValueError as error:
        raise ValueError(f"{shorten(value)} is no day; write it as 2005-01-01") from error
