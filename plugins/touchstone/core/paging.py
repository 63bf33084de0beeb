"""Where a page of a list ends and the next one begins; the weeks of lists by week. Pure."""

from __future__ import annotations

import base64
import re
from datetime import date, datetime, timedelta
from typing import NamedTuple, Self

from touchstone_agent.protocol.errors import ConfigurationError

_LONGEST_CURSOR = 512
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_WEEKS_READ = 3
"""Of a list, before all of it is read otherwise."""


def find_week(moment: str) -> str | None:
    """
    Return the week of a moment: its Monday, ISO 8601. Such texts sort like weeks.

    :param moment: ISO 8601 in UTC.
    :return: ``None`` if it begins with no day.
    """
    # Python reads other forms of days as well, which do not sort.
    found = _DAY.match(moment)
    if found is None:
        return None
    try:
        day = date.fromisoformat(found[0])
    except ValueError:
        return None
    return _find_monday(day).isoformat()


def list_weeks(now: datetime, before: str | None) -> list[str]:
    """
    Return the newest weeks of a list, as :func:`find_week` names them, the newest first.

    :param now: The time, UTC. The first week is that of tomorrow, for clocks differ.
    :param before: Nothing of the list is newer than this moment; ``None`` for no such bound.
    """
    newest = _find_monday(now.date() + timedelta(days=1)).isoformat()
    monday = date.fromisoformat(min(newest, find_week(before or "") or newest))
    known = min(_WEEKS_READ, (monday - date.min).days // 7 + 1)
    return [(monday - timedelta(weeks=number)).isoformat() for number in range(known)]


def _find_monday(day: date) -> date:
    return day - timedelta(days=day.weekday())


class Place(NamedTuple):
    """
    A submission's place among all: the newer one is the greater.

    :param created_at: When it was written first, ISO 8601 in UTC: such texts sort like times.
    :param submission_id: Tells two of the same moment apart.
    """

    created_at: str
    submission_id: str

    def to_cursor(self) -> str:
        """Return it as text, for the other side to bring back as it is."""
        return _write(self)

    @classmethod
    def from_cursor(cls, text: str) -> Self:
        """
        Return the place that a cursor stands for.

        :raises ConfigurationError: If it is no cursor of ours.
        """
        created_at, submission_id = _read(text, 2)
        return cls(created_at, submission_id)


class TaskListPlace(NamedTuple):
    """
    A task's place among all: the newer one is the greater.

    :param created_at: When it was written first, ISO 8601 in UTC.
    :param submission_id: The submission.
    :param task_id: The task; the two tell tasks of the same moment apart.
    """

    created_at: str
    submission_id: str
    task_id: str

    def to_cursor(self) -> str:
        """Return it as text, for the other side to bring back as it is."""
        return _write(self)

    @classmethod
    def from_cursor(cls, text: str) -> Self:
        """
        Return the place that a cursor stands for.

        :raises ConfigurationError: If it is no cursor of ours.
        """
        created_at, submission_id, task_id = _read(text, 3)
        return cls(created_at, submission_id, task_id)


def _write(place: tuple[str, ...]) -> str:
    return base64.urlsafe_b64encode(" ".join(place).encode()).decode().rstrip("=")


def _read(text: str, count: int) -> list[str]:
    try:
        if len(text) > _LONGEST_CURSOR:
            raise ValueError("too long")
        padded = text + "=" * (-len(text) % 4)
        plain = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
        parts = plain.split(" ")
        if len(parts) != count:
            raise ValueError("of another list")
        datetime.fromisoformat(parts[0])
    except ValueError as error:
        raise ConfigurationError(
            "cursor: is none; take the `next` of an earlier page as it is"
        ) from error
    return parts
