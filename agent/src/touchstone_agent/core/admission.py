"""What to do with a START: slots of two classes, fences, cancels that came first, images."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

from touchstone_agent.core.attempts import Attempt
from touchstone_agent.core.gpus import DetectedGpu
from touchstone_agent.protocol.messages import (
    AttemptPhase,
    AttemptRef,
    Refusal,
    SlotClass,
    Start,
)
from touchstone_agent.protocol.references import drop_digest

ALL_USABLE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """
    What this server offers.

    :param slots: Training slots; 0 takes no trainings.
    :param validation_slots: Validation slots.
    :param gpus: GPUs it may hand over.
    :param gpu_shares: How many attempts may hold one GPU at a time.
    :param images_allowed: Patterns, one of which an image must match; ``None`` where attempts do
        not run in an image.
    """

    slots: int
    validation_slots: int
    images_allowed: tuple[str, ...] | None
    gpus: tuple[DetectedGpu, ...] = ()
    gpu_shares: int = 1

    def of(self, slot_class: SlotClass) -> int:
        """Return the number of slots of a class."""
        return self.slots if slot_class is SlotClass.TRAINING else self.validation_slots

    def allows(self, image: str) -> bool:
        """
        Tell whether an image may run here.

        A pattern of a name and tag allows each content of that repository that is said to have
        that tag; a digest allows only one content.
        """
        patterns = self.images_allowed
        return patterns is None or any(
            fnmatch.fnmatchcase(name, glob)
            for glob in patterns
            for name in (image, drop_digest(image))
        )


@dataclass(frozen=True, kw_only=True)
class FenceMark:
    """
    The fences of a task, kept after its attempts are forgotten.

    :param seen: Highest fence that was ever accepted or reported as lost here; 0 = none.
    :param cancelled: Highest fence that was ever cancelled; 0 = none.
    """

    seen: int = 0
    cancelled: int = 0


@dataclass(frozen=True, kw_only=True)
class Accept:
    """
    Take it.

    :param supersedes: Older attempts of the task that must be gone before it may run.
    :param gpu_ids: GPUs it gets, by UUID.
    """

    supersedes: tuple[AttemptRef, ...] = ()
    gpu_ids: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """It was accepted before: say again where it is."""


@dataclass(frozen=True, kw_only=True)
class Refuse:
    """
    Do not take it.

    :param phase: ``rejected``, or ``cancelled`` when the cancel came first.
    :param reason: One line.
    :param refusal: What kind of reason, if it is ``rejected``.
    """

    phase: AttemptPhase
    reason: str
    refusal: Refusal | None = None


Decision = Accept | Repeat | Refuse


def decide_start(
    start: Start,
    *,
    attempts: Collection[Attempt],
    mark: FenceMark,
    capacity: Capacity,
    unusable: Mapping[str, str] = ALL_USABLE,
) -> Decision:
    """
    Judge a START against everything the agent knows.

    :param attempts: All attempts in the journal.
    :param mark: The kept fences of this task.
    :param capacity: What the server offers.
    :param unusable: Why a GPU must not be handed over now, by its UUID.
    """
    ref = start.ref
    if any(known.ref == ref for known in attempts):
        return Repeat()
    if ref.fence <= mark.cancelled:
        return Refuse(phase=AttemptPhase.CANCELLED, reason="cancelled before it was started")
    if ref.fence <= mark.seen:
        return _reject(
            Refusal.FENCE, f"fence {ref.fence} is not newer than {mark.seen}, seen before"
        )
    if not capacity.allows(start.image):
        return _reject(Refusal.IMAGE, f"image {start.image} is not allowed on this server")
    older = tuple(a for a in attempts if a.ref.task_key == ref.task_key)
    others = [a for a in attempts if a.holds_slot and a not in older]
    offered = capacity.of(start.slot_class)
    if offered == 0:
        return _reject(Refusal.DRAINED, f"this server takes no {start.slot_class}s")
    taken = sum(a.start.slot_class is start.slot_class for a in others)
    if taken >= offered:
        return _reject(
            Refusal.FULL, f"full: {taken} of {offered} {start.slot_class} slots are taken"
        )
    wanted, has = max(start.gpus, int(start.requires_gpu)), len(capacity.gpus)
    if has < wanted:
        return _reject(Refusal.GPU, f"gpu: {wanted} GPUs wanted, this server has {has}")
    free = find_free_gpus(capacity, others)
    if len(free) < wanted:
        return _reject(Refusal.FULL, f"full: {wanted} GPUs wanted, {len(free)} free")
    usable = [gpu.uuid for gpu in free if gpu.uuid not in unusable]
    if len(usable) < wanted:
        reasons = [unusable[gpu.uuid] for gpu in free if gpu.uuid in unusable]
        # One that only an attempt holds is free when that ends: nothing is to be mended first.
        waits = sum(gpu.uuid not in unusable for gpu in capacity.gpus) >= wanted
        refusal = Refusal.FULL if waits else Refusal.GPU
        return _reject(refusal, f"{refusal}: {reasons[0]}")
    return Accept(
        supersedes=tuple(a.ref for a in older if not a.is_final), gpu_ids=tuple(usable[:wanted])
    )


def find_free_gpus(capacity: Capacity, attempts: Iterable[Attempt]) -> tuple[DetectedGpu, ...]:
    """
    Return the GPUs of which a share is free, those first of which the least is held.

    So two attempts never share one while another is free.

    :param attempts: Attempts; those without a slot hold nothing.
    """
    holders = [a for a in attempts if a.holds_slot]
    held = {
        # What was accepted when fewer shared a GPU still holds as much of it.
        gpu.uuid: sum(Fraction(1, a.gpu_shares) for a in holders if gpu.is_among(a.gpu_ids))
        for gpu in capacity.gpus
    }
    share = Fraction(1, capacity.gpu_shares)
    free = [gpu for gpu in capacity.gpus if held[gpu.uuid] + share <= 1]
    return tuple(sorted(free, key=lambda gpu: held[gpu.uuid]))


def _reject(refusal: Refusal, reason: str) -> Refuse:
    return Refuse(phase=AttemptPhase.REJECTED, reason=reason, refusal=refusal)
