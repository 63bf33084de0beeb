"""
When waiting tasks will start, by playing the queue forward with the slots that are known.

Twice: with the durations to be expected and the tasks that wait; and with durations that one task
of ten exceeds and further tasks, as those who use the fleet now send more. The second is meant to
be later than nine of ten real starts; where a fleet is busier or calmer, ``stretch`` learns.
"""

from __future__ import annotations

import datetime as dt
import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from touchstone.core.durations import DEFAULTS, Duration
from touchstone.core.eligibility import Needs, Resource, Running
from touchstone.core.fairness import Key, Shares, Waiting, order_fairly, sort_levels
from touchstone.core.placement import Snapshot
from touchstone.core.placement_groups import PlacementGroup, PlacementGroups
from touchstone_agent.protocol.messages import SlotClass


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """
    When a task will start.

    :param p50: As likely before as after.
    :param p90: Later in one case of ten.
    """

    p50: dt.datetime
    p90: dt.datetime


def estimate(seen: Snapshot, *, stretch: float = 1.0) -> dict[Key, Estimate]:
    """
    Return when each waiting task will start.

    :param seen: What :func:`~touchstone.core.placement.plan` decided by.
    :param stretch: Multiplies every p90, see :attr:`ErrorLog.stretch`.
    :return: By task; one that no open resource could take is left out, as nobody knows when an
        admin gives slots back or a silent server returns.
    """
    found: dict[Key, Estimate] = {}
    if seen.is_paused:
        return found
    now = seen.now
    for kind, used in seen.list_usages():
        shares = Shares(used, seen.weights)
        ordered = order_fairly(
            sort_levels(task for task in seen.waiting if task.needs.kind is kind), shares
        )
        groups = PlacementGroups(kind, seen.resources, seen.delays)
        middle = _Forecast(kind, ordered, groups, now, _MIDDLE).play()
        arrivals = _imagine_arrivals(ordered, used, now)
        crowd = order_fairly(sort_levels([*ordered, *arrivals]), shares)
        seconds = _Forecast(kind, crowd, groups, now, _LATE).play()
        late = {task.key: start for task, start in zip(crowd, seconds, strict=True)}
        for task, p50 in zip(ordered, middle, strict=True):
            p90 = late[task.key]
            if p50 is not None and p90 is not None:
                # Longer tasks may, by chance, meet in a better order.
                p90 = max(p50, p90 * stretch)
                found[task.key] = Estimate(
                    p50=now + dt.timedelta(seconds=p50), p90=now + dt.timedelta(seconds=p90)
                )
    return found


def _imagine_arrivals(
    tasks: Sequence[Waiting], usage: Mapping[str, float], now: dt.datetime
) -> list[Waiting]:
    """
    Return tasks that may arrive while these are worked off, and of which some go first.

    As many as wait now, shared among submitters as the slots are now: who keeps the fleet busy
    today goes on doing so. Without them the rest of a large submission, which everybody else's
    next tasks overtake, started by its p90 in two of three cases only.
    """
    total = sum(usage.values())
    if not tasks or not total:
        return []
    plain = Needs(kind=tasks[0].needs.kind)
    return [
        replace(
            tasks[number],
            key=("", f"{submitter} {number}"),
            needs=plain,
            avoid=frozenset(),
            since=now + dt.timedelta(days=1),
            submitter=submitter,
        )
        for submitter, used in sorted(usage.items())
        for number in range(int(len(tasks) * used / total))
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class _View:
    """How long everything takes, in one way of looking at it."""

    last: Callable[[Duration], float]
    end: Callable[[Running], dt.datetime]


# A row of tasks takes the sum of their means, which is more than that of their medians.
_MIDDLE = _View(last=lambda it: it.mean_seconds, end=lambda running: running.ends_p50)
_LATE = _View(last=lambda it: it.p90_seconds, end=lambda running: running.ends_p90)


class _Forecast:
    """
    Plays the queue of one kind forward, in seconds from now.

    The order is that of the queue as it is now; nothing arrives and nothing fails. Where both kinds
    share slots, what waits of the other kind is not foreseen, only what runs.
    """

    def __init__(
        self,
        kind: SlotClass,
        ordered: Sequence[Waiting],
        groups: PlacementGroups,
        now: dt.datetime,
        view: _View,
    ) -> None:
        default = DEFAULTS[kind]
        self._lasts = [view.last(task.expected or default) for task in ordered]
        self._starts: list[float | None] = [None] * len(ordered)
        self._free: Counter[str] = Counter()
        # What will happen: a slot falls free, or a task may go elsewhere as its grace is over.
        self._events: list[tuple[float, int, str | PlacementGroup]] = []
        self._count = 0
        self._queues: dict[PlacementGroup, list[int]] = {}
        self._by_resource: dict[str, list[PlacementGroup]] = defaultdict(list)
        self._joining: dict[int, tuple[int, PlacementGroup]] = {}
        for resource in groups.open:
            self._free[resource.name] = resource.get_free(kind)
            for seconds in _find_ends(resource, kind, now, view, default):
                self._plan_event(seconds, resource.name)
        for rank, task in enumerate(ordered):
            self._join(groups.get(task), rank)
            for moment, group in groups.find_after_delays(task):
                seconds = (moment - now).total_seconds()
                self._joining[self._plan_event(seconds, group)] = (rank, group)

    def play(self) -> list[float | None]:
        """Return the start of each task in seconds, ``None`` for those that never start."""
        self._fill(0.0, [name for name, free in self._free.items() if free])
        while self._events:
            seconds, number, what = heapq.heappop(self._events)
            if isinstance(what, str):
                self._free[what] += 1
                self._fill(seconds, [what])
            else:
                rank, group = self._joining[number]
                if self._starts[rank] is None:
                    self._join(group, rank)
                    self._fill(seconds, [item.name for item in group.usable])
        return self._starts

    def _plan_event(self, seconds: float, what: str | PlacementGroup) -> int:
        self._count += 1
        heapq.heappush(self._events, (seconds, self._count, what))
        return self._count

    def _join(self, group: PlacementGroup, rank: int) -> None:
        queue = self._queues.get(group)
        if queue is None:
            queue = self._queues[group] = []
            for resource in group.usable:
                self._by_resource[resource.name].append(group)
        heapq.heappush(queue, rank)

    def _fill(self, seconds: float, names: Iterable[str]) -> None:
        """Start what can start, in the order of the queue, on what has fallen free."""
        opened = {name for name in names if self._free[name]}
        while opened:
            groups = {group: None for name in opened for group in self._by_resource[name]}
            heads = ((head, group) for group in groups if (head := self._find_head(group)) >= 0)
            first = min(heads, key=lambda item: item[0], default=None)
            if first is None:
                return
            rank, group = first
            name = self._choose(group)
            self._starts[rank] = seconds
            self._free[name] -= 1
            if not self._free[name]:
                opened.discard(name)
            self._plan_event(seconds + self._lasts[rank], name)

    def _find_head(self, group: PlacementGroup) -> int:
        """Return the first of a group's tasks that has not started, or -1."""
        queue = self._queues[group]
        while queue and self._starts[queue[0]] is not None:
            heapq.heappop(queue)
        return queue[0] if queue else -1

    def _choose(self, group: PlacementGroup) -> str:
        for tier in group.tiers:
            best = min(tier, key=lambda resource: (-self._free[resource.name], resource.name))
            if self._free[best.name]:
                return best.name
        raise AssertionError("a group was offered that no free resource fits")


def _find_ends(
    resource: Resource, kind: SlotClass, now: dt.datetime, view: _View, default: Duration
) -> list[float]:
    """Return in how many seconds slots fall free that are held now."""
    running = resource.get_running(kind)
    ends = sorted(max(0.0, (view.end(item) - now).total_seconds()) for item in running)
    slots = resource.get_slots(kind)
    # Held by something that is not told of: it is taken to have just begun.
    unknown = slots - resource.get_free(kind) - len(ends)
    ends += [view.last(default)] * max(0, unknown)
    # Where an admin took slots away, the first to end free nothing.
    return sorted(ends)[max(0, len(ends) - slots) :]
