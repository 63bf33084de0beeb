"""Which resource could run which task, whatever is free now; and why one could not."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property

from touchstone.core.images import NOTHING_KNOWN, Fit
from touchstone.core.market import Market
from touchstone.core.offers import OfferSelection
from touchstone.core.schedule import Placement, Platform
from touchstone.core.tasks import choose_image
from touchstone_agent.protocol.messages import SlotClass
from touchstone_agent.protocol.private import HeldData

BOTH_KINDS = frozenset(SlotClass)
VRAM_TOLERANCE = 0.02
"""A card sold with 24 GiB reports up to so much less: the driver keeps some for itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Capability:
    """
    What a machine has.

    :param cuda: Whether a container there can use CUDA.
    :param vram_gib: Memory of its smallest GPU, or of one share of it, GiB; one task gets one.
    :param ram_gib: Its memory, GiB.
    :param free_disk_gib: Disk that is free there now, GiB; ``None`` if nobody says.
    """

    cuda: bool = False
    vram_gib: float = 0
    ram_gib: float = 0
    free_disk_gib: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Declared:
    """What the fleet file says of a machine; ``None`` where it says nothing."""

    cuda: bool | None = None
    vram_gib: float | None = None
    ram_gib: float | None = None


def intersect(declared: Declared | Capability | None, detected: Capability | None) -> Capability:
    """
    Return what may be relied on: of each property the stricter of the two.

    :param declared: What the fleet file says; ``None`` when it does not know the machine.
    :param detected: What the machine's agent found; ``None`` before its first heartbeat, when
        the declaration stands alone (nothing is placed on a silent machine).
    """
    said = declared or Declared()
    found = detected or Capability(
        cuda=bool(said.cuda), vram_gib=said.vram_gib or 0, ram_gib=said.ram_gib or 0
    )
    cuda = found.cuda and said.cuda is not False
    vram = found.vram_gib if said.vram_gib is None else min(said.vram_gib, found.vram_gib)
    ram = found.ram_gib if said.ram_gib is None else min(said.ram_gib, found.ram_gib)
    # Memory of a GPU that may not be used would let tasks in that ask for memory alone.
    return Capability(
        cuda=cuda,
        vram_gib=vram if cuda else 0,
        ram_gib=ram,
        free_disk_gib=found.free_disk_gib,
    )


ANYWHERE = Placement()


@dataclass(frozen=True, kw_only=True)
class Needs:
    """
    What a task asks of a machine; hashable, so that equal tasks share the work.

    :param kind: Which slots it takes.
    :param placement: What its engineer asks of the machine.
    :param labels: What servers' allow and deny patterns are matched with.
    :param image: Its container image; empty if that is no matter.
    :param image_cuda: The one for where it is given a GPU; ``None`` if that is the same.
    :param data: The private data set that it is trained on; ``None`` for none.
    """

    kind: SlotClass
    placement: Placement = ANYWHERE
    labels: frozenset[str] = frozenset()
    image: str = ""
    image_cuda: str | None = None
    data: HeldData | None = None

    @cached_property
    def placement_text(self) -> str:
        """
        What it asks of the machine, as text; equal for equal placements.

        Plans compare thousands of needs: a string keeps its hash, which a model works out again.
        """
        return sys.intern(repr(self.placement))


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """
    A task that holds a slot, and until about when.

    :param ends_p50: As likely before as after.
    :param ends_p90: Later in one case of ten.
    """

    ends_p50: dt.datetime
    ends_p90: dt.datetime


@dataclass(frozen=True, kw_only=True)
class Resource:
    """
    A place that takes tasks: an on-prem server, or RunPod, whose slots tasks of both kinds share.

    :param name: Its name, which is also that of its pool.
    :param platform: ``ON_PREM`` or ``RUNPOD``.
    :param priority: Higher is filled first.
    :param slots: Slots of its pool for trainings; 0 drains.
    :param free: How many of them hold nothing; may be negative after an admin took slots away.
    :param validation_slots: The same of its pool for validations.
    :param validation_free: The same of its pool for validations.
    :param kinds: What it takes at all, whatever slots its pools have: an agent may be set up for
        validations only.
    :param capability: What it has, see :func:`intersect`.
    :param allow: Patterns of labels; a task needs one of them; empty for all tasks.
    :param deny: Patterns of labels that keep a task away, even one that is allowed.
    :param is_alive: Whether a heartbeat came recently.
    :param block: Why nothing may go there at the moment, or ``None``.
    :param kind_blocks: Why nothing of one kind may go there at the moment, by kind.
    :param held_images: Container images that it does not take at the moment, and why.
    :param held_labels: Labels of trainings that it does not take at the moment, and why.
    :param lingering: Slots for trainings held there by attempts that nobody waits for any more;
        they are not among those that are free.
    :param validation_lingering: The same of its slots for validations.
    :param running: The trainings that hold its slots.
    :param validation_running: The validations that hold its slots.
    :param silent_since: When it was last heard of, if it is not alive.
    :param market: What it has to rent; ``None`` for what is not rented.
    :param gpu_shares: How many trainings share one of its GPUs.
    :param fit: What its agent tells of drivers and images.
    :param gpu_price_per_hour: What an hour of one of its GPUs costs its owner, USD; ``None`` if
        nobody says.
    :param held: The private data sets that it holds, by its agent's word.
    """

    name: str
    platform: Platform = Platform.ON_PREM
    priority: int = 0
    slots: int = 0
    free: int = 0
    validation_slots: int = 0
    validation_free: int = 0
    kinds: frozenset[SlotClass] = BOTH_KINDS
    capability: Capability = Capability()
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    is_alive: bool = True
    block: str | None = None
    kind_blocks: tuple[tuple[SlotClass, str], ...] = ()
    held_images: tuple[tuple[str, str], ...] = ()
    held_labels: tuple[tuple[str, str], ...] = ()
    lingering: int = 0
    validation_lingering: int = 0
    running: tuple[Running, ...] = ()
    validation_running: tuple[Running, ...] = ()
    silent_since: dt.datetime | None = None
    market: Market | None = None
    gpu_shares: int = 1
    fit: Fit = NOTHING_KNOWN
    gpu_price_per_hour: float | None = None
    held: frozenset[HeldData] = frozenset()

    @property
    def is_shared(self) -> bool:
        """Return whether tasks of both kinds take the same slots: a pod is a pod."""
        return self.platform is Platform.RUNPOD

    def get_slots(self, kind: SlotClass) -> int:
        """Return the slots for tasks of one kind."""
        if kind not in self.kinds:
            return 0
        return self.validation_slots if self._is_apart(kind) else self.slots

    def get_free(self, kind: SlotClass) -> int:
        """Return how many tasks of one kind may start there now, were it alive and not blocked."""
        free = self.validation_free if self._is_apart(kind) else self.free
        return max(0, min(free, self.get_slots(kind)))

    def get_gpus(self, kind: SlotClass) -> int:
        """Return how many GPUs a task of one kind is handed there; a pod has its own."""
        is_given = kind is SlotClass.TRAINING and self.capability.cuda and not self.is_shared
        return int(is_given)

    def get_running(self, kind: SlotClass) -> tuple[Running, ...]:
        """Return the tasks of one kind that hold slots."""
        return self.validation_running if self._is_apart(kind) else self.running

    def get_lingering(self, kind: SlotClass) -> int:
        """Return the slots of one kind that are held by what nobody waits for any more."""
        return self.validation_lingering if self._is_apart(kind) else self.lingering

    def get_block(self, kind: SlotClass) -> str | None:
        """Return why no task of one kind may go there at the moment, or ``None``."""
        return self.block or dict(self.kind_blocks).get(kind)

    def is_open(self, kind: SlotClass) -> bool:
        """Return whether it takes tasks of one kind as soon as a slot is free."""
        return self.is_alive and self.get_block(kind) is None and self.get_slots(kind) > 0

    def _is_apart(self, kind: SlotClass) -> bool:
        """Tell whether a kind has slots beside those for trainings."""
        return kind is SlotClass.VALIDATION and not self.is_shared


def find_unfit(needs: Needs, resource: Resource) -> str | None:
    """
    Say why a resource could not run a task, whatever is free or alive now.

    :return: The first constraint that it does not meet, or ``None`` when it fits.
    """
    name, has, asked = resource.name, resource.capability, needs.placement
    if asked.platform is not Platform.ANY and asked.platform is not resource.platform:
        return f"{name} is {resource.platform}, it must run {asked.platform}"
    if needs.data is not None and needs.data not in resource.held:
        return f"{name} does not hold the private data set {needs.data.name} {needs.data.version}"
    if needs.kind not in resource.kinds:
        return f"{name} takes no {needs.kind}s"
    if asked.allowed_hosts and name not in asked.allowed_hosts:
        return f"{name} is not one of its allowed hosts ({_join(asked.allowed_hosts)})"
    if resource.market is not None:
        selection = _select_offers(needs, resource.market)
        if not selection.candidates and not selection.may_wait:
            return f"{name}: {selection.reason or 'its catalogue is empty'}"
    if asked.require_cuda and not has.cuda:
        return f"{name} has no CUDA"
    if asked.min_vram_gib > 0 and has.vram_gib < asked.min_vram_gib * (1 - VRAM_TOLERANCE):
        return f"{name} has {has.vram_gib:g} GiB VRAM, it needs {asked.min_vram_gib:g}"
    if has.ram_gib < asked.min_ram_gib:
        return f"{name} has {has.ram_gib:g} GiB RAM, it needs {asked.min_ram_gib:g}"
    return _find_unwanted(needs, resource)


def _find_unwanted(needs: Needs, resource: Resource) -> str | None:
    """Say which pattern keeps a task away, or that none lets it in; ``None`` if it may come."""
    name = resource.name
    for pattern in resource.deny:
        if is_labelled(needs.labels, (pattern,)):
            return f"{name} denies {pattern}"
    if resource.allow and not is_labelled(needs.labels, resource.allow):
        return f"{name} allows only {_join(resource.allow)}"
    return None


def find_unready(needs: Needs, resource: Resource) -> str | None:
    """
    Say why a resource that fits could not run a task right now, free slots or not.

    :return: What is out of stock, or refused there, or ``None``.
    """
    free, least = resource.capability.free_disk_gib, needs.placement.min_disk_gib
    if free is not None and free < least:
        # What ends there, or is swept, gives some back: that is no reason to refuse it for good.
        return f"{resource.name} has {free:g} GiB of free disk, it needs {least:g}"
    image = choose_image(needs.image, needs.image_cuda, gpus=resource.get_gpus(needs.kind))
    held = next((why for other, why in resource.held_images if other == image), None)
    if held is None and needs.kind is SlotClass.TRAINING:
        held = next((why for label, why in resource.held_labels if label in needs.labels), None)
    if held is not None or resource.market is None:
        return held
    selection = _select_offers(needs, resource.market)
    return None if selection.candidates else selection.reason


def _select_offers(needs: Needs, market: Market) -> OfferSelection:
    asked = needs.placement
    if needs.kind is SlotClass.VALIDATION:
        return market.choose_cpu(max_price=asked.max_price)
    return market.choose(
        gpu_models=asked.gpu_models,
        cloud=asked.cloud,
        max_price=asked.max_price,
        # Cards are sold by round numbers, and asked for by them.
        min_memory_gb=asked.min_vram_gib,
    )


def is_labelled(labels: frozenset[str], patterns: Sequence[str]) -> bool:
    """Return whether any label matches any pattern."""
    return any(fnmatchcase(label, pattern) for pattern in patterns for label in labels)


def describe_needs(needs: Needs) -> str:
    """Return what a task needs beyond a slot, such as ``needs CUDA, 24 GiB VRAM``, or nothing."""
    parts, asked = [], needs.placement
    if asked.platform is not Platform.ANY:
        parts.append("RunPod" if asked.platform is Platform.RUNPOD else "an on-prem server")
    if asked.require_cuda:
        parts.append("CUDA")
    if asked.min_vram_gib > 0:
        parts.append(f"{asked.min_vram_gib:g} GiB VRAM")
    if asked.min_ram_gib > 0:
        parts.append(f"{asked.min_ram_gib:g} GiB RAM")
    if asked.min_disk_gib > 0:
        parts.append(f"{asked.min_disk_gib:g} GiB of free disk")
    if asked.allowed_hosts:
        parts.append(" or ".join(sorted(asked.allowed_hosts)))
    if needs.data is not None:
        parts.append(f"the private data set {needs.data.name} {needs.data.version}")
    return f"needs {', '.join(parts)}" if parts else ""


def find_impossible(needs: Needs, resources: Sequence[Resource]) -> str | None:
    """
    Say why no known resource could ever run a task.

    Slots of pools are not looked at: they are an admin's to give back.

    :param needs: What the task asks for.
    :param resources: Every resource there is, also drained and silent ones.
    :return: One line, or ``None`` when some resource fits.
    """
    if not resources:
        return "there are no servers"
    reasons = []
    for resource in resources:
        reason = find_unfit(needs, resource)
        if reason is None:
            return None
        reasons.append((resource.name, reason))
    told = [reason for _, reason in sorted(reasons)]
    more = f"; {len(told) - 3} more neither" if len(told) > 3 else ""
    what = describe_needs(needs)
    return f"no resource can run it{f' ({what})' if what else ''}: {'; '.join(told[:3])}{more}"


def _join(words: Sequence[str]) -> str:
    return ", ".join(sorted(words))
