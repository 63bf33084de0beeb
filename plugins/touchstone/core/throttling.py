"""
Which runs may begin: the next few of each submitter. The others are throttled.

Airflow begins runs in the order of their arrival, and only so many at a time. Without this, one
submitter's hundreds would keep everybody else's first from so much as being looked at.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

THROTTLED_UNTIL: Final = datetime(9000, 1, 2, tzinfo=UTC)
"""The start that Airflow sees for a throttled run: Airflow itself never starts it."""


@dataclass(frozen=True, kw_only=True)
class EarlyRun:
    """
    A run that has not got as far as its trainings.

    :param pk: Airflow's number of it; a later run has a higher one.
    :param submitter: Whose it is.
    :param has_begun: Whether Airflow has begun it.
    :param is_throttled: Whether it must not begin now.
    """

    pk: int
    submitter: str
    has_begun: bool = False
    is_throttled: bool = False


@dataclass(frozen=True, kw_only=True)
class Throttling:
    """Runs to throttle, and throttled runs to release, each by its number."""

    throttle: tuple[int, ...] = ()
    release: tuple[int, ...] = ()


def decide_throttling(runs: Iterable[EarlyRun], *, limit: int) -> Throttling:
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
    throttle: list[int] = []
    release: list[int] = []
    for submitter, theirs in waiting.items():
        room = max(0, limit - begun[submitter])
        for place, run in enumerate(sorted(theirs, key=lambda each: each.pk)):
            if place < room and run.is_throttled:
                release.append(run.pk)
            elif place >= room and not run.is_throttled:
                throttle.append(run.pk)
    return Throttling(throttle=tuple(sorted(throttle)), release=tuple(sorted(release)))
