"""What waits and what there is, as placement sees it: built from records and pools. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from touchstone.core.attempts import (
    OUT_OF_MEMORY,
    build_attempt_spec,
    find_attempts_of_run,
    is_unrented,
    remember_attempt,
)
from touchstone.core.conf import Platform, Schedule
from touchstone.core.eligibility import Capability, Declared, Needs, Resource, Running, intersect
from touchstone.core.fairness import Hold
from touchstone.core.holds import LACKS, ServerHold, list_holds
from touchstone.core.outcomes import Outcome
from touchstone.core.pools import RUNPOD_POOL
from touchstone.core.reasons import tell_time
from touchstone.core.tasks import TaskSpec
from touchstone.core.times import read_time
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.protocol.messages import AttemptPhase, SlotClass

Record = dict[str, Any]

NOTHING_LINGERS: Mapping[SlotClass, int] = Counter()

_MIB_PER_GIB = 1024
_SLOTS_KEYS = {SlotClass.TRAINING: "slots", SlotClass.VALIDATION: "validation_slots"}

FIRST_HOLD = timedelta(seconds=30)
LONGEST_HOLD = timedelta(minutes=30)
FREE_REFUSALS = 2
"""So many servers in a row may refuse a task before it waits: the next one may well take it."""

# Without chance: it is worked out anew at each look, and people are told until when.
_HOLD = Backoff(
    first_seconds=FIRST_HOLD.total_seconds(), cap_seconds=LONGEST_HOLD.total_seconds(), jitter=0
)


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
        image=spec.image,
        image_cuda=spec.image_cuda,
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
    lasted = read_time(ended) - read_time(began)
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
        and (item.get("phase") != AttemptPhase.REJECTED or item.get("failure_class") in LACKS)
        and item.get("failure_class") != OUT_OF_MEMORY
    )


def find_hold(record: Record) -> Hold | None:
    """
    Return for how long a task keeps away from where its last attempts were not taken.

    A pod that could not be rented is tried again after half a minute, then after twice as long
    each time: the catalogue, a balance or a budget rarely change within seconds. Servers that
    refuse one after the other are waited for in the same way, from the third on: Airflow's tries
    must outlast whatever is wrong with all of them.
    """
    rentals = refusals = 0
    places = set()
    for item in reversed(find_attempts_of_run(record)):
        if is_unrented(item):
            rentals += 1
            places.add(RUNPOD_POOL)
        elif item.get("phase") == AttemptPhase.REJECTED:
            refusals += 1
            places.add(str(item.get("server")))
        else:
            break
    ended = record.get("ended_at")
    waits = [_HOLD.after(row) for row in (rentals, refusals - FREE_REFUSALS) if row > 0]
    if not waits or not ended:
        return None
    if refusals <= FREE_REFUSALS:
        places = {RUNPOD_POOL}
    until = read_time(ended) + timedelta(seconds=max(waits))
    return Hold(until=until, reason=str(record.get("reason")), places=frozenset(places))


def build_resource(
    server: Record,
    *,
    slots: int,
    free: int,
    validation_slots: int,
    validation_free: int,
    running: Iterable[Running] = (),
    validation_running: Iterable[Running] = (),
    lingering: Mapping[SlotClass, int] = NOTHING_LINGERS,
    now: datetime,
    silence: timedelta,
) -> Resource:
    """
    Return an on-prem server as placement sees it.

    :param server: The server's record: heartbeat, inventory, what the fleet file declares, and what
        it has refused.
    :param slots: Slots of its pool for trainings.
    :param free: How many of those hold nothing, as far as Airflow knows.
    :param validation_slots: The same of its pool for validations.
    :param validation_free: The same of its pool for validations.
    :param running: What holds the slots for trainings.
    :param validation_running: The same of its pool for validations.
    :param lingering: Attempts of each kind that hold a slot there by the agent's word and that
        nobody waits for any more.
    :param silence: How long it may say nothing before nothing new is sent to it.
    """
    declared = server.get("declared") or {}
    seen = server.get("heartbeat_at")
    heard = read_time(seen) if seen else None
    holds = [hold for hold in list_holds(server) if hold.until > now]
    running, validation_running = tuple(running), tuple(validation_running)
    left, validation_left = lingering[SlotClass.TRAINING], lingering[SlotClass.VALIDATION]
    # What the agent takes at a time, and not what somebody has set on the Pools page.
    most = find_slots(server, SlotClass.TRAINING, slots)
    validation_most = find_slots(server, SlotClass.VALIDATION, validation_slots)
    return Resource(
        name=str(server["server"]),
        priority=int(declared.get("priority") or 0),
        slots=most,
        free=min(free, most - len(running)) - left,
        validation_slots=validation_most,
        validation_free=min(validation_free, validation_most - len(validation_running))
        - validation_left,
        kinds=find_kinds(server),
        capability=intersect(
            Declared(
                cuda=declared.get("cuda"),
                vram_gib=declared.get("vram_gib"),
                ram_gib=declared.get("ram_gib"),
            ),
            find_detected(server),
        ),
        allow=tuple(map(str, declared.get("allow") or ())),
        deny=tuple(map(str, declared.get("deny") or ())),
        is_alive=heard is not None and now - heard <= silence,
        block=next(
            (tell_hold(hold, now) for hold in holds if not hold.kind and not hold.image), None
        ),
        kind_blocks=tuple(
            (hold.kind, tell_hold(hold, now)) for hold in holds if hold.kind and not hold.label
        ),
        held_images=tuple((hold.image, tell_hold(hold, now)) for hold in holds if hold.image),
        held_labels=tuple((hold.label, tell_hold(hold, now)) for hold in holds if hold.label),
        lingering=left,
        validation_lingering=validation_left,
        running=running,
        validation_running=validation_running,
        silent_since=heard,
        gpu_shares=max(map(find_shares, _list_gpus(server)), default=1),
        gpu_price_per_hour=declared.get("gpu_price_per_hour"),
    )


def tell_hold(hold: ServerHold, now: datetime) -> str:
    """Return what a server does not take, until when, and why, without the server's name."""
    what = f"no {hold.kind}s" if hold.kind else "nothing"
    if hold.image:
        what = f"nothing of image {hold.image}"
    if hold.label:
        what += f" of {hold.label.removeprefix('user:')}"
    return f"takes {what} until {tell_time(hold.until, now)}: {hold.reason}"


def find_slots(server: Mapping[str, Any], kind: SlotClass, slots: int) -> int:
    """
    Return how many tasks of a kind a server takes at a time.

    :param slots: What its pool says.
    :return: The same, or what its agent says if that is less.
    """
    takes = (server.get("inventory") or {}).get(_SLOTS_KEYS[kind])
    return slots if takes is None else min(slots, int(takes))


def find_kinds(server: Mapping[str, Any]) -> frozenset[SlotClass]:
    """
    Return what a server's agent takes at all.

    One that was set up without slots for trainings refuses them, whatever its pool says: that is
    how a server for validations alone is made, and no admin has drained it.
    """
    inventory = server.get("inventory") or {}
    return frozenset(kind for kind, key in _SLOTS_KEYS.items() if inventory.get(key) != 0)


def find_detected(server: Mapping[str, Any]) -> Capability | None:
    """Return what a server's agent has found there; ``None`` before its first word."""
    inventory = server.get("inventory")
    if not inventory:
        return None
    gpus = inventory.get("gpus") or ()
    # A task gets any one of them, or its share of it.
    vram_mib = min(((gpu.get("memory_mib") or 0) / find_shares(gpu) for gpu in gpus), default=0)
    return Capability(
        cuda=bool(gpus),
        vram_gib=vram_mib / _MIB_PER_GIB,
        ram_gib=(inventory.get("memory_mib") or 0) / _MIB_PER_GIB,
    )


def count_shares(server: Mapping[str, Any]) -> int:
    """Return how many trainings a server's GPUs are enough for; 0 without GPUs."""
    return sum(map(find_shares, _list_gpus(server)))


def _list_gpus(server: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return (server.get("inventory") or {}).get("gpus") or ()


def find_shares(gpu: Mapping[str, Any]) -> int:
    """Return how many trainings share a GPU of an inventory; 1 from agents that do not say."""
    return int(gpu.get("shares") or 1)
