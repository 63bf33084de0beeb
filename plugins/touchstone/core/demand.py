"""What waits and what there is, as placement sees it: built from records and pools. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from touchstone.core.attempts import (
    OUT_OF_MEMORY,
    RENTAL_CLASSES,
    build_attempt_spec,
    find_attempts_of_run,
    remember_attempt,
)
from touchstone.core.conf import Platform, Schedule
from touchstone.core.eligibility import Capability, Declared, Needs, Resource, Running, intersect
from touchstone.core.fairness import Hold
from touchstone.core.outcomes import Outcome
from touchstone.core.tasks import TaskSpec
from touchstone_agent.protocol.messages import AttemptPhase, SlotClass

Record = dict[str, Any]

_MIB_PER_GIB = 1024

FIRST_HOLD = timedelta(seconds=30)
LONGEST_HOLD = timedelta(minutes=30)


def build_needs(record: Record) -> Needs:
    """
    Return what a task's next attempt asks of a server.

    :param record: The task's record; attempts that ran out of memory are counted in it.
    """
    spec = TaskSpec.model_validate(record["config"])
    # As the next attempt will see it: the newest one is history by then.
    next_one = {"attempts": remember_attempt(record), "attempt": 0, "fence": record["fence"] + 1}
    grown = build_attempt_spec({**record, **next_one})
    min_ram_gib = spec.min_ram_gib
    if grown.limits.memory_mib > spec.limits.memory_mib:
        min_ram_gib = max(min_ram_gib, grown.limits.memory_mib / _MIB_PER_GIB)
    return Needs(
        kind=spec.kind,
        platform=Platform(spec.platform),
        require_cuda=spec.require_cuda,
        prefer_cuda=spec.prefer_cuda,
        min_vram_gib=spec.min_vram_gib,
        min_ram_gib=min_ram_gib,
        allowed_hosts=frozenset(spec.allowed_hosts),
        labels=build_labels(spec),
        gpu_models=spec.pods.gpu_models,
        cloud=spec.pods.cloud,
        max_price=spec.pods.max_price,
    )


def build_schedule_needs(schedule: Schedule, *, system: str, submitted_by: str) -> Needs:
    """Return what the trainings of a schedule will ask for, before there are any."""
    labels = {system, f"user:{submitted_by}"}
    return Needs(
        kind=SlotClass.TRAINING,
        platform=schedule.platform,
        require_cuda=schedule.require_cuda,
        prefer_cuda=schedule.prefer_cuda,
        min_vram_gib=schedule.min_vram_gib,
        min_ram_gib=schedule.min_ram_gib,
        allowed_hosts=frozenset(schedule.allowed_hosts),
        labels=frozenset(labels | {schedule.job} if schedule.job else labels),
        gpu_models=schedule.gpu_models,
        cloud=schedule.cloud,
        max_price=schedule.max_price,
    )


def find_duration(record: Record) -> float | None:
    """Return how many seconds a task's newest attempt ran, if it ended well."""
    began, ended = record.get("running_at"), record.get("exited_at")
    if not began or not ended or record.get("outcome") != Outcome.SUCCEEDED:
        return None
    lasted = datetime.fromisoformat(ended) - datetime.fromisoformat(began)
    return max(0.0, lasted.total_seconds())


def build_labels(spec: TaskSpec) -> frozenset[str]:
    """Return what servers' allow and deny patterns are matched with."""
    labels = {spec.system.value, f"user:{spec.submitted_by}"}
    return frozenset(labels | {spec.job} if spec.job else labels)


def find_avoided(record: Record) -> frozenset[str]:
    """
    Return the servers on which attempts of this run failed for no fault of the task's.

    Being full is not among them: a slot that was taken is free again a moment later. Nor is
    running out of memory, which asks for a larger server, not for another one.
    """
    return frozenset(
        str(item["server"])
        for item in find_attempts_of_run(record)
        if item.get("server")
        and item.get("outcome") in {Outcome.FAILED_INFRASTRUCTURE, Outcome.LOST}
        and item.get("phase") != AttemptPhase.REJECTED
        and item.get("failure_class") != OUT_OF_MEMORY
    )


def find_hold(record: Record) -> Hold | None:
    """
    Return for how long no pod is to be rented for a task again, by how its last attempts ended.

    What could not be rented is tried again after half a minute, then after twice as long each
    time: the catalogue, a balance or a budget rarely change within seconds.
    """
    row = 0
    for item in reversed(find_attempts_of_run(record)):
        if item.get("failure_class") not in RENTAL_CLASSES:
            break
        row += 1
    ended = record.get("ended_at")
    if not row or not ended:
        return None
    pause = min(FIRST_HOLD * 2 ** (row - 1), LONGEST_HOLD)
    return Hold(until=datetime.fromisoformat(ended) + pause, reason=str(record.get("reason")))


def build_resource(
    server: Record,
    *,
    slots: int,
    free: int,
    validation_slots: int,
    validation_free: int,
    running: Iterable[Running] = (),
    validation_running: Iterable[Running] = (),
    now: datetime,
    silence: timedelta,
) -> Resource:
    """
    Return an on-prem server as placement sees it.

    :param server: The server's record: heartbeat, inventory, what the fleet file declares.
    :param silence: How long it may say nothing before nothing new is sent to it.
    """
    declared = server.get("declared") or {}
    seen = server.get("heartbeat_at")
    heard = datetime.fromisoformat(seen) if seen else None
    return Resource(
        name=str(server["server"]),
        priority=int(declared.get("priority") or 0),
        slots=slots,
        free=free,
        validation_slots=validation_slots,
        validation_free=validation_free,
        kinds=find_kinds(server),
        capability=intersect(
            Declared(
                cuda=declared.get("cuda"),
                vram_gib=declared.get("vram_gib"),
                ram_gib=declared.get("ram_gib"),
            ),
            find_detected(server),
        ),
        allow=tuple(declared.get("allow") or ()),
        deny=tuple(declared.get("deny") or ()),
        is_alive=heard is not None and now - heard <= silence,
        running=tuple(running),
        validation_running=tuple(validation_running),
        silent_since=heard,
    )


def find_kinds(server: Mapping[str, Any]) -> frozenset[SlotClass]:
    """
    Return what a server's agent takes at all.

    One that was set up without slots for trainings refuses them, whatever its pool says: that is
    how a server for validations alone is made, and no admin has drained it.
    """
    inventory = server.get("inventory") or {}
    keys = {SlotClass.TRAINING: "slots", SlotClass.VALIDATION: "validation_slots"}
    return frozenset(kind for kind, key in keys.items() if inventory.get(key) != 0)


def find_detected(server: Mapping[str, Any]) -> Capability | None:
    """Return what a server's agent has found there; ``None`` before its first word."""
    inventory = server.get("inventory")
    if not inventory:
        return None
    gpus = inventory.get("gpus") or ()
    return Capability(
        cuda=bool(gpus),
        vram_gib=min((gpu.get("memory_mib") or 0 for gpu in gpus), default=0) / _MIB_PER_GIB,
        ram_gib=(inventory.get("memory_mib") or 0) / _MIB_PER_GIB,
    )
