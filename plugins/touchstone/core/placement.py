"""
The one decision of where a waiting task runs: pure, so that it can be tried without Airflow.

Nothing is bound before a slot is free, and no slot stays free beside a task that could use it.
Equal inputs give equal plans, whatever their order: two dispatchers decide the same.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from touchstone.core.conf import Platform
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
from touchstone.core.fairness import Key, NoneFree, Shares, Waiting, offer_fairly, order_fairly
from touchstone.core.reasons import Reasons
from touchstone.core.shapes import Graces, Shape, Shapes
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
    "Wait",
    "Waiting",
    "find_impossible",
    "find_unfit",
    "intersect",
    "plan",
]

CUDA_GRACE = dt.timedelta(seconds=300)
AVOID_GRACE = dt.timedelta(seconds=300)
NOTHING: Mapping[str, float] = MappingProxyType({})


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
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


def plan(
    waiting: Sequence[Waiting],
    resources: Sequence[Resource],
    *,
    now: dt.datetime,
    usage: Mapping[str, float] = NOTHING,
    validation_usage: Mapping[str, float] = NOTHING,
    weights: Mapping[str, float] = NOTHING,
    cuda_grace: dt.timedelta = CUDA_GRACE,
    avoid_grace: dt.timedelta = AVOID_GRACE,
    is_paused: bool = False,
) -> Plan:
    """
    Decide which waiting tasks start now, and where.

    Tasks are offered by priority, then by fair share between submitters, then by age. Each takes
    the best of what is free and fits: on-prem before RunPod, a server where it has not failed
    before one where it has, CUDA first if it prefers that, then by the server's priority, then
    the least capable, so that a GPU is not taken by what needs none. Validations go first where
    both kinds share slots: they are short, and their engineers wait for them.

    :param waiting: The tasks that wait.
    :param resources: Servers and RunPod with what is free of them.
    :param now: The time.
    :param usage: Training slots' worth that each submitter has in use, or had of late.
    :param validation_usage: The same of validation slots, which trainings never take: whoever
        trains much does not wait longer for a validation.
    :param weights: Submitters that may have more (or less) than the others; 1 unless given.
    :param cuda_grace: How long a task that prefers CUDA waits for it.
    :param avoid_grace: How long a task waits for another server than those where it failed.
    :param is_paused: Place nothing; positions and reasons are still told.
    """
    placements: list[Placement] = []
    waits: list[Wait] = []
    graces = Graces(now=now, cuda=cuda_grace, avoid=avoid_grace)
    shared: Counter[str] = Counter()
    for kind, used in ((SlotClass.VALIDATION, validation_usage), (SlotClass.TRAINING, usage)):
        tasks = [task for task in waiting if task.needs.kind is kind]
        if not tasks:
            continue
        desk = _Desk(kind, resources, graces, shared)
        shares = Shares(used, weights)
        if not is_paused:
            offer_fairly(tasks, shares, desk.take)
            placements += desk.placements
            shared.update(placement.resource for placement in desk.placements)
            placed = {placement.key for placement in desk.placements}
            tasks = [task for task in tasks if task.key not in placed]
        reasons = Reasons(kind, desk.shapes, graces, is_paused=is_paused)
        waits += (
            Wait(key=task.key, position=position, reason=reasons.explain(task))
            for position, task in enumerate(order_fairly(tasks, shares), 1)
        )
    return Plan(placements=tuple(placements), waits=tuple(waits))


class _Desk:
    """
    Gives the free slots of one kind away, each once.

    :param taken: Slots by resource that the other kind has been given just now.
    """

    def __init__(
        self,
        kind: SlotClass,
        resources: Sequence[Resource],
        graces: Graces,
        taken: Mapping[str, int],
    ) -> None:
        self.shapes = Shapes(kind, resources, graces)
        self.placements: list[Placement] = []
        self._free = {
            item.name: max(0, item.get_free(kind) - item.is_shared * taken.get(item.name, 0))
            for item in self.shapes.open
        }
        self._left = sum(self._free.values())
        self._exhausted: set[Shape] = set()

    def take(self, task: Waiting) -> bool:
        """Place a task if a slot that it may use is free; end the offer if none is at all."""
        if not self._left:
            raise NoneFree
        shape = self.shapes.get(task)
        if shape in self._exhausted:
            return False
        chosen = self._choose(shape)
        if chosen is None:
            self._exhausted.add(shape)
            return False
        self._free[chosen.name] -= 1
        self._left -= 1
        reason = _explain_choice(task, chosen)
        self.placements.append(Placement(key=task.key, resource=chosen.name, reason=reason))
        return True

    def _choose(self, shape: Shape) -> Resource | None:
        """Return the best resource with a free slot; of equals the one with most free, by name."""
        best: tuple[int, str] | None = None
        chosen: Resource | None = None
        for tier in shape.tiers:
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
    if task.needs.prefer_cuda and not resource.capability.cuda:
        return f"{where}; it prefers CUDA but waited its time for it"
    if resource.platform is Platform.RUNPOD and task.needs.platform is Platform.ANY:
        return f"{where}, and none on-prem that fits"
    return where
