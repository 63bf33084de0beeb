"""
Which runs may begin: everybody's next few, however many somebody has sent at once.

Airflow begins runs in the order of their arrival, and only so many at a time. Without this, one
submitter's hundreds would keep everybody else's first from so much as being looked at.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

HELD_UNTIL: Final = datetime(9000, 1, 2, tzinfo=UTC)
"""When a held run is to begin, as Airflow is told: never by itself."""


@dataclass(frozen=True, kw_only=True)
class EarlyRun:
    """
    A run that has not got as far as its trainings.

    :param pk: Airflow's number of it; a later run has a higher one.
    :param submitter: Whose it is.
    :param has_begun: Whether Airflow has begun it.
    :param is_held: Whether it is kept from that at the moment.
    """

    pk: int
    submitter: str
    has_begun: bool = False
    is_held: bool = False


@dataclass(frozen=True, kw_only=True)
class Admission:
    """Runs to keep from beginning, and runs to let begin, each by its number."""

    hold: tuple[int, ...] = ()
    release: tuple[int, ...] = ()


def admit(runs: Iterable[EarlyRun], *, limit: int) -> Admission:
    """
    Decide which runs may begin.

    :param runs: All that have not got as far as their trainings.
    :param limit: So many of one submitter's may have begun, or be about to.
    """
    begun: Counter[str] = Counter()
    waiting: dict[str, list[EarlyRun]] = defaultdict(list)
    for run in runs:
        if run.has_begun:
            begun[run.submitter] += 1
        else:
            waiting[run.submitter].append(run)
    hold: list[int] = []
    release: list[int] = []
    for submitter, theirs in waiting.items():
        room = max(0, limit - begun[submitter])
        for place, run in enumerate(sorted(theirs, key=lambda each: each.pk)):
            if place < room and run.is_held:
                release.append(run.pk)
            elif place >= room and not run.is_held:
                hold.append(run.pk)
    return Admission(hold=tuple(sorted(hold)), release=tuple(sorted(release)))
