"""What to do with a START: slots of two classes, fences, cancels that came first, images."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from touchstone_agent.core.attempts import Attempt
from touchstone_agent.protocol.messages import (
    AttemptPhase,
    AttemptRef,
    Refusal,
    SlotClass,
    Start,
)


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """
    What this server offers.

    :param slots: Training slots; 0 takes no trainings.
    :param validation_slots: Validation slots.
    :param gpu_ids: GPUs it may hand over.
    :param images_allowed: Patterns, one of which an image must match; ``None`` where attempts do
        not run in an image.
    """

    slots: int
    validation_slots: int
    images_allowed: tuple[str, ...] | None
    gpu_ids: tuple[int, ...] = ()

    def of(self, slot_class: SlotClass) -> int:
        """Return the number of slots of a class."""
        return self.slots if slot_class is SlotClass.TRAINING else self.validation_slots

    def allows(self, image: str) -> bool:
        """Tell whether an image may run here."""
        patterns = self.images_allowed
        return patterns is None or any(fnmatch.fnmatchcase(image, glob) for glob in patterns)


@dataclass(frozen=True, kw_only=True)
class FenceMark:
    """
    What is remembered of a task after its attempts are forgotten.

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
    :param gpu_ids: GPUs it gets.
    """

    supersedes: tuple[AttemptRef, ...] = ()
    gpu_ids: tuple[int, ...] = ()


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
    start: Start, *, attempts: Collection[Attempt], mark: FenceMark, capacity: Capacity
) -> Decision:
    """
    Judge a START against everything the agent knows.

    :param attempts: All attempts in the journal.
    :param mark: What is remembered of this task.
    :param capacity: What the server offers.
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
    has = len(capacity.gpu_ids)
    if has < start.gpus:
        return _reject(Refusal.GPU, f"gpu: {start.gpus} GPUs wanted, this server has {has}")
    free = find_free_gpus(capacity.gpu_ids, others)
    if len(free) < start.gpus:
        return _reject(Refusal.FULL, f"full: {start.gpus} GPUs wanted, {len(free)} free")
    return Accept(
        supersedes=tuple(a.ref for a in older if not a.is_final), gpu_ids=free[: start.gpus]
    )


def find_free_gpus(gpu_ids: Iterable[int], attempts: Iterable[Attempt]) -> tuple[int, ...]:
    """Return the GPUs that no attempt with a slot holds, lowest first."""
    held = {gpu for a in attempts if a.holds_slot for gpu in a.gpu_ids}
    return tuple(sorted(set(gpu_ids) - held))


def _reject(refusal: Refusal, reason: str) -> Refuse:
    return Refuse(phase=AttemptPhase.REJECTED, reason=reason, refusal=refusal)
