"""The order of the queue: priority, then fair share between submitters, then age."""

from __future__ import annotations

import datetime as dt
import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from touchstone.core.durations import Duration
from touchstone.core.eligibility import Needs
from touchstone.core.pools import RUNPOD_POOL

Key = tuple[str, str]
"""A task: the submission's id and the task's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskBackoff:
    """
    Why a task keeps away from where it was not taken, for a while.

    :param until: It may be tried again from then on.
    :param reason: What happened the last time.
    :param places: The resources that it keeps away from.
    """

    until: dt.datetime
    reason: str
    places: frozenset[str] = frozenset({RUNPOD_POOL})


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """
    A task that waits for a slot.

    :param key: The task.
    :param needs: What it asks of a machine.
    :param priority: Higher goes first, whatever the shares.
    :param since: When it entered the queue.
    :param order: Its place among those that entered together: the map index.
    :param submitter: Who shares.
    :param avoid: Servers where an earlier attempt failed for infrastructure.
    :param failed_at: When the last of those failed; ``None`` counts from ``since``.
    :param expected: How long it will hold a slot, if anything is known.
    :param backoff: Until when it keeps away from where it was not taken, and why; ``None`` if it
        may go anywhere.
    """

    key: Key
    needs: Needs
    since: dt.datetime
    priority: int = 0
    order: int = 0
    submitter: str = ""
    avoid: frozenset[str] = frozenset()
    failed_at: dt.datetime | None = None
    expected: Duration | None = None
    backoff: TaskBackoff | None = None

    @property
    def avoid_since(self) -> dt.datetime:
        """Return from when on it waits for another server than those where it failed."""
        return self.failed_at or self.since


class Shares:
    """
    What each submitter has, in slots, weighed.

    :param usage: Slots' worth each has in use, or had recently; see
        :class:`~touchstone.core.usage.RecentUse`.
    :param weights: How much more than others each may have; 1 unless given.
    """

    def __init__(self, usage: Mapping[str, float], weights: Mapping[str, float]) -> None:
        self._usage = dict(usage)
        self._weights = weights

    def get(self, submitter: str) -> float:
        """Return a submitter's weighed share; a submitter without weight comes last."""
        weight = self._weights.get(submitter, 1.0)
        return self._usage.get(submitter, 0.0) / weight if weight > 0 else float("inf")

    def add(self, submitter: str) -> None:
        """Count one more slot of a submitter."""
        self._usage[submitter] = self._usage.get(submitter, 0.0) + 1

    def copy(self) -> Shares:
        """Return shares that can be counted on without changing these."""
        return Shares(self._usage, self._weights)


def sort_levels(waiting: Iterable[Waiting]) -> list[list[Waiting]]:
    """
    Return tasks by priority, the highest first, and in each by when they entered the queue.

    Ties by order, then by key. Sorting is most of the work, so it is done once for a round.
    """
    levels: dict[int, list[Waiting]] = defaultdict(list)
    for task in waiting:
        levels[task.priority].append(task)
    for level in levels.values():
        level.sort(key=lambda task: (task.since, task.order, task.key))
    return [levels[priority] for priority in sorted(levels, reverse=True)]


def draw_fairly(levels: Iterable[list[Waiting]], shares: Shares) -> Iterator[Waiting]:
    """
    Yield tasks in the order of the queue, by the shares as they are at that moment.

    The next is, in the highest priority, the oldest task of the submitter with the smallest share.
    The caller counts each task that gets a slot in the shares before it asks for the next one. A
    task that gets none costs its submitter nothing: a submitter who waits for one scarce machine
    must not lose a turn on the others.

    :param levels: As :func:`sort_levels` returns them.
    :param shares: What submitters have.
    """
    for tasks in levels:
        # Ages are compared as ranks: a whole number is compared faster than a date and a key.
        lanes: dict[str, list[int]] = defaultdict(list)
        for rank, task in enumerate(tasks):
            lanes[task.submitter].append(rank)
        nexts = {submitter: iter(lane) for submitter, lane in lanes.items()}
        heap = [(shares.get(submitter), next(lane), submitter) for submitter, lane in nexts.items()]
        heapq.heapify(heap)
        while heap:
            _, rank, submitter = heap[0]
            yield tasks[rank]
            following = next(nexts[submitter], None)
            if following is None:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (shares.get(submitter), following, submitter))


def order_fairly(levels: Iterable[list[Waiting]], shares: Shares) -> list[Waiting]:
    """Return tasks in the order in which they would be taken if any slot fitted any task."""
    ordered: list[Waiting] = []
    counted = shares.copy()
    for task in draw_fairly(levels, counted):
        ordered.append(task)
        counted.add(task.submitter)
    return ordered
