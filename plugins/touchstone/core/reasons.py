"""Why a task still waits, in one line for its engineer."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from touchstone.core.eligibility import (
    Resource,
    describe_needs,
    find_impossible,
    find_unfit,
    find_unready,
)
from touchstone.core.fairness import Waiting
from touchstone.core.placement_groups import PlacementDelays, PlacementGroup, PlacementGroups
from touchstone.core.pools import RUNPOD_POOL
from touchstone_agent.protocol.messages import SlotClass

PAUSED = "placements are paused"
_NAMES = 3
"""So many resources are told by name; more are counted."""


class Reasons:
    """
    The reasons of waiting tasks of one kind; one is worked out once for all tasks it holds for.

    :param kind: Which slots they wait for.
    :param groups: What may go where.
    :param delays: How long tasks wait for something better.
    :param is_paused: Whether nothing is placed at all.
    """

    def __init__(
        self, kind: SlotClass, groups: PlacementGroups, delays: PlacementDelays, *, is_paused: bool
    ) -> None:
        self._kind = kind
        self._groups = groups
        self._delays = delays
        self._is_paused = is_paused
        self._told: dict[PlacementGroup, str] = {}

    def explain(self, task: Waiting) -> str:
        """Return why a task waits."""
        if self._is_paused:
            return PAUSED
        group = self._groups.get(task)
        reason = self._told.get(group)
        if reason is None:
            reason = self._told[group] = self._explain_shape(group)
        if group.takes_any and group.takes_avoided and not group.held:
            return reason
        now = self._delays.now
        parts = [reason] if reason else []
        if not group.takes_any:
            until = tell_time(task.since + self._delays.cuda, now)
            parts.insert(0, f"prefers CUDA: waits for it until {until}")
        if not group.takes_avoided and not task.avoid.intersection(
            resource.name for resource in group.usable
        ):
            until = tell_time(task.since + self._delays.avoid, now)
            failed = ", ".join(sorted(task.avoid))
            parts.insert(0, f"failed on {failed}: waits for another server until {until}")
        if group.held and task.backoff is not None:
            until = tell_time(task.backoff.until, now)
            parts.insert(0, f"{task.backoff.reason}: {_tell_places(group.held)} before {until}")
        return "; ".join(parts)

    def _explain_shape(self, group: PlacementGroup) -> str:
        fits = [item for item in self._groups.all if find_unfit(group.needs, item) is None]
        if not fits:
            return find_impossible(group.needs, self._groups.all) or ""
        if not group.takes_any:
            fits = [item for item in fits if item.capability.cuda]
        if group.held:
            fits = [item for item in fits if item.name not in group.held]
            if not fits:
                return ""  # why it is held says all
        closed = [item for item in fits if not self._is_ready(group, item)]
        needs = describe_needs(group.needs)
        if group.usable:
            parts = [needs] if needs else []
            parts.append(self._tell_full(group.usable))
            if len(closed) < _NAMES:
                parts += (self._tell_closed(group, item) for item in closed)
            return "; ".join(parts)
        why = ", ".join(self._tell_closed(group, item) for item in closed[:_NAMES])
        if len(closed) > _NAMES:
            why += f", and {len(closed) - _NAMES} more"
        what = "no server with CUDA" if not group.takes_any else "nothing"
        if not needs:
            return f"{what} is ready: {why}" if why else f"{what} is known"
        return f"{needs}; {what} that fits is ready: {why}"

    def _tell_full(self, usable: Sequence[Resource]) -> str:
        names = [resource.name for resource in usable]
        if len(names) == 1:
            told = f"{names[0]} is full"
        elif len(names) <= _NAMES:
            told = f"{', '.join(names[:-1])} and {names[-1]} are full"
        else:
            told = f"all {len(names)} that fit are full"
        ends = [
            (end, resource.name)
            for resource in usable
            if (end := self._find_next_end(resource)) is not None
        ]
        told += _tell_lingering(sum(item.get_lingering(self._kind) for item in usable))
        if not ends:
            return told
        end, name = min(ends)
        where = f" ({name})" if len(names) > 1 else ""
        if end <= self._delays.now:
            return f"{told}, next free any minute{where}"
        return f"{told}, next free about {tell_time(end, self._delays.now)}{where}"

    def _find_next_end(self, resource: Resource) -> dt.datetime | None:
        ends = sorted(running.ends_p50 for running in resource.get_running(self._kind))
        # Where an admin took slots away, the first to end free nothing.
        excess = max(0, len(ends) - resource.get_slots(self._kind))
        return ends[excess] if len(ends) > excess else None

    def _is_ready(self, group: PlacementGroup, resource: Resource) -> bool:
        return resource.is_open(self._kind) and find_unready(group.needs, resource) is None

    def _tell_closed(self, group: PlacementGroup, resource: Resource) -> str:
        if resource.get_slots(self._kind) <= 0:
            return f"{resource.name} has no slots"
        if not resource.is_alive:
            if resource.silent_since is None:
                return f"{resource.name} is not online"
            since = tell_time(resource.silent_since, self._delays.now)
            return f"{resource.name} is silent since {since}"
        why = resource.get_block(self._kind) or find_unready(group.needs, resource)
        return f"{resource.name}: {why}"


def _tell_places(held: frozenset[str]) -> str:
    servers = ", ".join(sorted(held - {RUNPOD_POOL}))
    if RUNPOD_POOL not in held:
        return f"{servers} is not asked again" if servers else ""
    return f"no pod is tried again, nor {servers}," if servers else "no pod is tried again"


def _tell_lingering(slots: int) -> str:
    """Say that slots are held by what nobody waits for any more, or nothing."""
    if slots == 0:
        return ""
    if slots == 1:
        return " (1 slot is held by an attempt that is being ended)"
    return f" ({slots} slots are held by attempts that are being ended)"


def tell_time(moment: dt.datetime, now: dt.datetime) -> str:
    """Return a time as an engineer says it; with the day unless it is today's."""
    moment = moment.astimezone(dt.UTC)
    if moment.date() == now.astimezone(dt.UTC).date():
        return f"{moment:%H:%M} UTC"
    return f"{moment:%d %b %H:%M} UTC"
