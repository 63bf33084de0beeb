"""How many slots submitters use now and used recently: the measure of their shares."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

LEAST = dt.timedelta(seconds=1)
MOST = dt.timedelta(hours=1)
"""After how long half of a slot is forgotten, at least and at most."""
_HALVINGS = 5
"""After so many what is left of a slot decides nothing any more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotUse:
    """
    A slot in use.

    :param key: Tells it from all others, those of the same task's other attempts too.
    :param submitter: Who has it.
    :param since: Since when.
    """

    key: Hashable
    submitter: str
    since: dt.datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class _Given:
    """A slot that was given back, and after how long half of it is forgotten."""

    submitter: str
    at: dt.datetime
    half_life: dt.timedelta

    def get_halvings(self, now: dt.datetime) -> float:
        return max(0.0, (now - self.at) / self.half_life)


class RecentUse:
    """
    Counts the slots of one kind that each submitter has, and remembers for a while what they had.

    A slot in use counts 1. One that was given back counts half of that after as long as it was
    held, an hour at most, a quarter after twice as long, and so on. Did it count nothing at once,
    then a submitter who gives a slot back had the smallest share and took the very same one again:
    all would stay on the kind of machine where they happen to be, tasks that need no GPU on a GPU
    beside others' that wait for one.

    Only what it was shown is remembered: a new process begins with the slots in use.
    """

    def __init__(self) -> None:
        self._held: dict[Hashable, SlotUse] = {}
        self._given: list[_Given] = []

    def count(self, held: Iterable[SlotUse], now: dt.datetime) -> dict[str, float]:
        """
        Return how many slots' worth each submitter has.

        :param held: All slots in use now; what was in use the last time and is not any more has
            been given back since.
        :param now: The time.
        """
        before, self._held = self._held, {slot.key: slot for slot in held}
        for key in before.keys() - self._held.keys():
            slot = before[key]
            half_life = min(MOST, max(LEAST, now - slot.since))
            self._given.append(_Given(submitter=slot.submitter, at=now, half_life=half_life))
        self._given = [it for it in self._given if it.get_halvings(now) < _HALVINGS]
        usage: dict[str, float] = defaultdict(float)
        for slot in self._held.values():
            usage[slot.submitter] += 1
        for given in self._given:
            usage[given.submitter] += 0.5 ** given.get_halvings(now)
        return dict(usage)
