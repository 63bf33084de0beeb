"""
The one decision of where a waiting task runs: pure, so that it can be tried without Airflow.

Nothing is bound before a slot is free, and no slot stays free beside a task that could use it.
Equal inputs give equal plans, whatever their order: two dispatchers decide the same.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from touchstone.core.eligibility import (
    Capability,
    Declared,
    Needs,
    Resource,
    Running,
    find_impossible,
    find_unfit,
    intersect,
)
from touchstone.core.fairness import (
    Key,
    Shares,
    Waiting,
    draw_fairly,
    order_fairly,
    sort_levels,
)
from touchstone.core.placement_groups import PlacementDelays, PlacementGroup, PlacementGroups
from touchstone.core.reasons import Reasons
from touchstone.core.schedule import Platform
from touchstone_agent.protocol.messages import SlotClass

__all__ = [
    "Capability",
    "Declared",
    "Key",
    "Needs",
    "Placement",
    "Plan",
    "Resource",
    "Running",
    "Snapshot",
    "Wait",
    "Waiting",
    "find_impossible",
    "find_unfit",
    "intersect",
    "plan",
]

CUDA_GRACE = dt.timedelta(seconds=300)
AVOID_GRACE = dt.timedelta(seconds=300)
"""How long a task waits for a better place: for CUDA, unless a setting says otherwise, and for a
server where it has not failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """
    A task that may start now.

    :param key: The task.
    :param resource: Where.
    :param reason: Why there, in one line.
    """

    key: Key
    resource: str
    reason: str


class Wait(NamedTuple):
    """
    A task that goes on waiting.

    :param key: The task.
    :param position: Its place among the waiting tasks of its kind; 1 is next.
    :param reason: Why it waits, in one line for its engineer.
    """

    key: Key
    position: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """
    What to do now, and what to tell those who wait.

    :param placements: In the order in which they were decided.
    :param waits: Validations, then trainings, each in the order of the queue.
    """

    placements: tuple[Placement, ...] = ()
    waits: tuple[Wait, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """
    What plans and estimates are made from: the queue and the fleet at one moment.

    :param now: The time.
    :param waiting: The tasks that wait, in no order.
    :param resources: Servers and RunPod with their free slots.
    :param usage: Each submitter's use of training slots, now and recently, in slots.
    :param validation_usage: The same of validation slots, which trainings never take: who
        trains much does not wait longer for a validation.
    :param weights: Submitters that may have more (or less) than the others; 1 unless given.
    :param cuda_grace: How long a task that prefers CUDA waits for it.
    :param avoid_grace: How long a task waits for another server than those where it failed.
    :param is_paused: Place nothing; positions and reasons are still told.
    """

    now: dt.datetime
    waiting: Sequence[Waiting] = ()
    resources: Sequence[Resource] = ()
    usage: Mapping[str, float] = field(default_factory=dict)
    validation_usage: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    cuda_grace: dt.timedelta = CUDA_GRACE
    avoid_grace: dt.timedelta = AVOID_GRACE
    is_paused: bool = False

    def list_usages(self) -> tuple[tuple[SlotClass, Mapping[str, float]], ...]:
        """Return each kind of task with who has used how much of its slots, validations first."""
        return (SlotClass.VALIDATION, self.validation_usage), (SlotClass.TRAINING, self.usage)

    @property
    def delays(self) -> PlacementDelays:
        """Return how long tasks wait for a better place, counted from now."""
        return PlacementDelays(now=self.now, cuda=self.cuda_grace, avoid=self.avoid_grace)


def plan(seen: Snapshot) -> Plan:
    """
    Decide which waiting tasks start now, and where.

    Tasks are offered by priority, then by fair share between submitters, then by age. Each takes
    the best of what is free and fits: on-prem before RunPod, a server where it has not failed
    before one where it has, CUDA first if it prefers that, then by the server's priority, then
    the least capable, so that a GPU is not taken by what needs none. Validations go first where
    both kinds share slots: they are short, and their engineers wait for them.
    """
    placements: list[Placement] = []
    waits: list[Wait] = []
    delays = seen.delays
    shared: Counter[str] = Counter()
    for kind, used in seen.list_usages():
        tasks = [task for task in seen.waiting if task.needs.kind is kind]
        if not tasks:
            continue
        assigner = _SlotAssigner(kind, seen.resources, delays, shared)
        levels, shares = sort_levels(tasks), Shares(used, seen.weights)
        if not seen.is_paused and assigner.has_free:
            for task in draw_fairly(levels, shares):
                if assigner.take(task):
                    shares.add(task.submitter)
                    if not assigner.has_free:
                        break
            placements += assigner.placements
            shared.update(placement.resource for placement in assigner.placements)
            placed = {placement.key for placement in assigner.placements}
            levels = [[task for task in level if task.key not in placed] for level in levels]
        reasons = Reasons(kind, assigner.groups, delays, is_paused=seen.is_paused)
        waits += (
            Wait(key=task.key, position=position, reason=reasons.explain(task))
            for position, task in enumerate(order_fairly(levels, shares), 1)
        )
    return Plan(placements=tuple(placements), waits=tuple(waits))


class _SlotAssigner:
    """
    Gives the free slots of one kind away, each once.

    :param taken: Slots by resource that the other kind has been given just now.
    """

    def __init__(
        self,
        kind: SlotClass,
        resources: Sequence[Resource],
        delays: PlacementDelays,
        taken: Mapping[str, int],
    ) -> None:
        self.groups = PlacementGroups(kind, resources, delays)
        self.placements: list[Placement] = []
        self._free = {
            item.name: max(0, item.get_free(kind) - item.is_shared * taken.get(item.name, 0))
            for item in self.groups.open
        }
        self._left = sum(self._free.values())
        self._exhausted: set[PlacementGroup] = set()

    @property
    def has_free(self) -> bool:
        """Tell whether a slot is left at all."""
        return self._left > 0

    def take(self, task: Waiting) -> bool:
        """Place a task, and tell so, if a slot that it may use is free."""
        group = self.groups.get(task)
        if group in self._exhausted:
            return False
        chosen = self._choose(group)
        if chosen is None:
            self._exhausted.add(group)
            return False
        self._free[chosen.name] -= 1
        self._left -= 1
        reason = _explain_choice(task, chosen)
        self.placements.append(Placement(key=task.key, resource=chosen.name, reason=reason))
        return True

    def _choose(self, group: PlacementGroup) -> Resource | None:
        """Return the best resource with a free slot; of equals the one with most free, by name."""
        best: tuple[int, str] | None = None
        chosen: Resource | None = None
        for tier in group.tiers:
            for resource in tier:
                free = self._free[resource.name]
                if free and (best is None or (-free, resource.name) < best):
                    best, chosen = (-free, resource.name), resource
            if chosen is not None:
                break
        return chosen


def _explain_choice(task: Waiting, resource: Resource) -> str:
    where = f"a slot of {resource.name} is free"
    if resource.name in task.avoid:
        return f"{where}; it failed there before, but no other server could take it"
    if task.needs.placement.prefer_cuda and not resource.capability.cuda:
        return f"{where}; it prefers CUDA but waited its time for it"
    if resource.platform is Platform.RUNPOD and task.needs.placement.platform is Platform.ANY:
        return f"{where}, and none on-prem that fits"
    return where
