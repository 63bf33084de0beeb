"""Which resource could run which task, whatever is free now; and why one could not."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase

from touchstone.core.conf import CloudChoice, Platform
from touchstone.core.market import Market
from touchstone.core.pods import Choice
from touchstone.core.tasks import choose_image
from touchstone_agent.protocol.messages import SlotClass

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
    """

    cuda: bool = False
    vram_gib: float = 0
    ram_gib: float = 0


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
    return Capability(cuda=cuda, vram_gib=vram if cuda else 0, ram_gib=ram)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """
    What a task asks of a machine; hashable, so that equal tasks share the work.

    :param kind: Which slots it takes.
    :param platform: Where its engineer lets it run.
    :param require_cuda: It cannot run without CUDA.
    :param prefer_cuda: It waits a grace for CUDA, then runs without.
    :param min_vram_gib: Memory of the GPU it needs; 0 for none.
    :param min_ram_gib: Memory it needs; 0 for no matter.
    :param allowed_hosts: Names of the only resources it may use; empty for any.
    :param labels: What servers' allow and deny patterns are matched with.
    :param gpu_models: GPU models of pods it may run in, best first; empty for any.
    :param cloud: Whose machines pods may be on.
    :param max_price: Most that a pod may cost, USD per hour; ``None`` for no ceiling.
    :param image: Its container image; empty if that is no matter.
    :param image_cuda: The one for where it is given a GPU; ``None`` if that is the same.
    """

    kind: SlotClass
    platform: Platform = Platform.ANY
    require_cuda: bool = False
    prefer_cuda: bool = False
    min_vram_gib: float = 0
    min_ram_gib: float = 0
    allowed_hosts: frozenset[str] = frozenset()
    labels: frozenset[str] = frozenset()
    gpu_models: tuple[str, ...] = ()
    cloud: CloudChoice = CloudChoice.ANY
    max_price: Decimal | None = None
    image: str = ""
    image_cuda: str | None = None


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
    :param is_alive: Whether it was heard of lately.
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
    :param gpu_price_per_hour: What an hour of one of its GPUs costs its owner, USD; ``None`` if
        nobody says.
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
    gpu_price_per_hour: float | None = None

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
    name, has = resource.name, resource.capability
    if needs.platform is not Platform.ANY and needs.platform is not resource.platform:
        return f"{name} is {resource.platform}, it must run {needs.platform}"
    if needs.kind not in resource.kinds:
        return f"{name} takes no {needs.kind}s"
    if needs.allowed_hosts and name not in needs.allowed_hosts:
        return f"{name} is not one of its allowed hosts ({_tell(needs.allowed_hosts)})"
    if resource.market is not None:
        choice = _shop(needs, resource.market)
        if not choice.candidates and not choice.may_wait:
            return f"{name}: {choice.reason or 'its catalogue is empty'}"
    if needs.require_cuda and not has.cuda:
        return f"{name} has no CUDA"
    if needs.min_vram_gib > 0 and has.vram_gib < needs.min_vram_gib * (1 - VRAM_TOLERANCE):
        return f"{name} has {has.vram_gib:g} GiB VRAM, it needs {needs.min_vram_gib:g}"
    if has.ram_gib < needs.min_ram_gib:
        return f"{name} has {has.ram_gib:g} GiB RAM, it needs {needs.min_ram_gib:g}"
    for pattern in resource.deny:
        if is_labelled(needs.labels, (pattern,)):
            return f"{name} denies {pattern}"
    if resource.allow and not is_labelled(needs.labels, resource.allow):
        return f"{name} allows only {_tell(resource.allow)}"
    return None


def find_unready(needs: Needs, resource: Resource) -> str | None:
    """
    Say why a resource that fits could not run a task right now, free slots or not.

    :return: What is out of stock, or refused there, or ``None``.
    """
    image = choose_image(needs.image, needs.image_cuda, gpus=resource.get_gpus(needs.kind))
    held = next((why for other, why in resource.held_images if other == image), None)
    if held is None and needs.kind is SlotClass.TRAINING:
        held = next((why for label, why in resource.held_labels if label in needs.labels), None)
    if held is not None or resource.market is None:
        return held
    choice = _shop(needs, resource.market)
    return None if choice.candidates else choice.reason


def _shop(needs: Needs, market: Market) -> Choice:
    if needs.kind is SlotClass.VALIDATION:
        return market.choose_cpu(max_price=needs.max_price)
    return market.choose(
        gpu_models=needs.gpu_models,
        cloud=needs.cloud,
        max_price=needs.max_price,
        # Cards are sold by round numbers, and asked for by them.
        min_memory_gb=needs.min_vram_gib,
    )


def is_labelled(labels: frozenset[str], patterns: Sequence[str]) -> bool:
    """Return whether any label matches any pattern."""
    return any(fnmatchcase(label, pattern) for pattern in patterns for label in labels)


def describe_needs(needs: Needs) -> str:
    """Return what a task needs beyond a slot, such as ``needs CUDA, 24 GiB VRAM``, or nothing."""
    parts = []
    if needs.platform is not Platform.ANY:
        parts.append("RunPod" if needs.platform is Platform.RUNPOD else "an on-prem server")
    if needs.require_cuda:
        parts.append("CUDA")
    if needs.min_vram_gib > 0:
        parts.append(f"{needs.min_vram_gib:g} GiB VRAM")
    if needs.min_ram_gib > 0:
        parts.append(f"{needs.min_ram_gib:g} GiB RAM")
    if needs.allowed_hosts:
        parts.append(" or ".join(sorted(needs.allowed_hosts)))
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


def _tell(words: Sequence[str] | frozenset[str]) -> str:
    return ", ".join(sorted(words))
