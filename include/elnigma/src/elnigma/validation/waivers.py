"""
Columns that an engineer has waived: what they know of later rows is not held against them.

Nothing else is waived. They are the same in each call and each process, and are finite numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from elnigma.errors import ConfigError, SubmissionError
from elnigma.feature_frame import show
from elnigma.validation.look_ahead import Leak

MAX_WAIVED = 20
MAX_CHARACTERS = 100
_MOST_NAMES_SHOWN = 40
_ARGUMENT = "--waive-column"


def read_waived(names: Sequence[str]) -> tuple[str, ...]:
    """
    Return names of columns that are waived, as arguments give them.

    :raises ConfigError: If there are too many, or one can be no column's that is waived.
    """
    if len(names) > MAX_WAIVED:
        raise ConfigError(f"{_ARGUMENT}: {len(names)} columns; at most {MAX_WAIVED} may be waived")
    for at, name in enumerate(names):
        if not (0 < len(name) <= MAX_CHARACTERS and name.isascii() and name.isprintable()):
            raise ConfigError(
                f"{_ARGUMENT}: {show(name)} has {len(name)} characters; give 1 to "
                f"{MAX_CHARACTERS} printable ones of ASCII"
            )
        if name in names[:at]:
            raise ConfigError(f"{_ARGUMENT}: {show(name)} is given twice; keep one")
    return tuple(names)


class Waivers:
    """
    Which of a module's columns are waived.

    :param waived: Names of columns.
    """

    def __init__(self, waived: Sequence[str] = ()) -> None:
        self._waived = frozenset(waived)
        self._order = tuple(waived)

    def __bool__(self) -> bool:
        return bool(self._order)

    def check(self, columns: Sequence[str]) -> None:
        """
        Refuse to waive what a module does not produce.

        :param columns: What it produces.
        :raises SubmissionError: With the first such name, and the names that there are.
        """
        unknown = next((name for name in self._order if name not in columns), None)
        if unknown is None:
            return
        names = ", ".join(map(show, columns[:_MOST_NAMES_SHOWN]))
        more = len(columns) - _MOST_NAMES_SHOWN
        raise SubmissionError(
            f"waived columns: {show(unknown)} is waived, and no column of the module; there are "
            f"{names}{f' and {more} more' if more > 0 else ''}"
        )

    def find_places(self, columns: Sequence[str]) -> np.ndarray:
        """Return for each column whether it is waived."""
        return np.array([name in self._waived for name in columns], dtype=bool)

    def covers(self, columns: Sequence[str]) -> bool:
        """Return whether all columns are waived."""
        return self._waived.issuperset(columns)

    def drop(self, leaks: Sequence[Leak]) -> list[Leak]:
        """Return what is held against columns that are not waived."""
        return [leak for leak in leaks if leak.column not in self._waived]
