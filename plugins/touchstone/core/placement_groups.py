"""Tasks of one group may use the same resources now: what fits is worked out once for all."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from touchstone.core.eligibility import (
    Needs,
    Resource,
    find_unfit,
    find_unready,
    is_labelled,
)
from touchstone.core.fairness import Waiting
from touchstone.core.schedule import Platform
from touchstone_agent.protocol.messages import SlotClass

_Reduced = tuple[object, ...]
_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class PlacementDelays:
    """
    How long a task waits for something better.

    :param now: The time.
    :param cuda: For CUDA, if it prefers that.
    :param avoid: For another server than those where it failed.
    """

    now: dt.datetime
    cuda: dt.timedelta
    avoid: dt.timedelta


@dataclass(frozen=True, eq=False, slots=True)
class PlacementGroup:
    """
    What decides where a task may go; there is one object of each, compared by identity.

    :param needs: The needs of one of its tasks; those of the others match the same patterns.
    :param avoid: Where it failed.
    :param takes_any: It may go without the CUDA it prefers.
    :param takes_avoided: It may go back to where it failed.
    :param held: Where it was not taken, and is not tried again now.
    :param tiers: The open resources it may use, best first; those of one tier are equally good.
    """

    needs: Needs
    avoid: frozenset[str]
    takes_any: bool
    takes_avoided: bool
    held: frozenset[str]
    tiers: tuple[tuple[Resource, ...], ...]

    @property
    def usable(self) -> tuple[Resource, ...]:
        """Return the open resources it may use, best first."""
        return tuple(resource for tier in self.tiers for resource in tier)


class PlacementGroups:
    """
    The groups of waiting tasks of one kind.

    :param kind: Which slots.
    :param resources: Every resource.
    :param delays: How long tasks wait for something better.
    """

    def __init__(
        self, kind: SlotClass, resources: Sequence[Resource], delays: PlacementDelays
    ) -> None:
        self.all = sorted(resources, key=lambda resource: resource.name)
        self.open = [resource for resource in self.all if resource.is_open(kind)]
        self._delays = delays
        patterns = {pattern for item in self.all for pattern in (*item.allow, *item.deny)}
        self._globs = sorted(pattern for pattern in patterns if set(pattern) & set("*?["))
        self._words = patterns.difference(self._globs)
        # Of whom one takes nothing now; a user's name is no pattern.
        self._words |= {label for item in self.all for label, _ in item.held_labels}
        self._images = {image for item in self.all for image, _ in item.held_images}
        self._groups: dict[
            tuple[_Reduced, frozenset[str], bool, bool, frozenset[str]], PlacementGroup
        ] = {}
        # Callers mostly share one object among equal needs, and even hashing them would take longer
        # than all else here. The tasks outlive these groups, so no id is used twice.
        self._plain: dict[int, PlacementGroup] = {}
        self._choosy: dict[int, PlacementGroup] = {}
        self._reduced: dict[int, _Reduced] = {}

    def get(self, task: Waiting) -> PlacementGroup:
        """Return a task's group now."""
        needs = task.needs
        takes_any = (
            not needs.placement.prefer_cuda or self._delays.now - task.since >= self._delays.cuda
        )
        if not task.avoid and task.backoff is None:
            known = self._plain if takes_any else self._choosy
            group = known.get(id(needs))
            if group is None:
                group = known[id(needs)] = self._intern(
                    needs, task.avoid, takes_any, True, _NOTHING
                )
            return group
        failed = self._delays.now - task.avoid_since
        takes_avoided = not task.avoid or failed >= self._delays.avoid
        return self._intern(
            needs, task.avoid, takes_any, takes_avoided, _find_held(task, self._delays.now)
        )

    def find_after_delays(self, task: Waiting) -> tuple[tuple[dt.datetime, PlacementGroup], ...]:
        """Return the groups a task will have when its delays are over, and from when on."""
        needs, now = task.needs, self._delays.now
        ends = {
            "cuda": task.since + self._delays.cuda if needs.placement.prefer_cuda else now,
            "avoid": task.avoid_since + self._delays.avoid if task.avoid else now,
            "hold": task.backoff.until if task.backoff else now,
        }
        return tuple(
            (
                end,
                self._intern(
                    needs,
                    task.avoid,
                    ends["cuda"] <= end,
                    ends["avoid"] <= end,
                    _find_held(task, end),
                ),
            )
            for end in sorted({moment for moment in ends.values() if moment > now})
        )

    def _intern(
        self,
        needs: Needs,
        avoid: frozenset[str],
        takes_any: bool,
        takes_avoided: bool,
        held: frozenset[str],
    ) -> PlacementGroup:
        key = (self._reduce(needs), avoid, takes_any, takes_avoided, held)
        group = self._groups.get(key)
        if group is None:
            tiers = self._rank(needs, avoid, takes_any, takes_avoided, held)
            group = PlacementGroup(needs, avoid, takes_any, takes_avoided, held, tiers)
            self._groups[key] = group
        return group

    def _reduce(self, needs: Needs) -> _Reduced:
        """Put the patterns in place of the labels that match them: most labels matter nowhere."""
        reduced = self._reduced.get(id(needs))
        if reduced is None:
            labels, words = needs.labels, self._words
            matched = _NOTHING if words.isdisjoint(labels) else labels & words
            if self._globs:
                matched |= {glob for glob in self._globs if is_labelled(labels, (glob,))}
            reduced = self._reduced[id(needs)] = (
                needs.placement_text,
                needs.image if needs.image in self._images else "",
                on_gpu if (on_gpu := needs.image_cuda or needs.image) in self._images else "",
                matched,
                needs.data,
            )
        return reduced

    def _rank(
        self,
        needs: Needs,
        avoid: frozenset[str],
        takes_any: bool,
        takes_avoided: bool,
        held: frozenset[str],
    ) -> tuple[tuple[Resource, ...], ...]:
        fits = [
            resource
            for resource in self.open
            if (takes_any or resource.capability.cuda)
            and resource.name not in held
            and find_unfit(needs, resource) is None
            and find_unready(needs, resource) is None
        ]
        if not takes_avoided:
            fits = [resource for resource in fits if resource.name not in avoid] or fits
        return _rank(fits, needs, avoid)


def _find_held(task: Waiting, moment: dt.datetime) -> frozenset[str]:
    """Return where a task is not tried again at a moment."""
    return (
        task.backoff.places
        if task.backoff is not None and task.backoff.until > moment
        else _NOTHING
    )


def _rank(
    fits: Iterable[Resource], needs: Needs, avoid: frozenset[str]
) -> tuple[tuple[Resource, ...], ...]:
    def rate(resource: Resource) -> tuple[bool, bool, bool, int, bool, float, float]:
        has = resource.capability
        return (
            resource.platform is Platform.RUNPOD,
            resource.name in avoid,
            needs.placement.prefer_cuda and not has.cuda,
            -resource.priority,
            has.cuda,
            has.vram_gib,
            has.ram_gib,
        )

    return tuple(tuple(tier) for _, tier in groupby(sorted(fits, key=rate), key=rate))
