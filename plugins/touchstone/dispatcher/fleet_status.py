"""How servers and pools are, and where that is otherwise than the fleet file has it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import Any, Final, Protocol

from touchstone.core.demand import (
    count_shares,
    find_detected,
    find_kinds,
    find_shares,
    tell_hold,
)
from touchstone.core.holds import list_holds
from touchstone.core.placement import Capability, Declared, intersect
from touchstone.core.pools import (
    DECK_POOL,
    FINISH_POOL,
    QUEUE_POOL,
    UNLIMITED,
    build_validation_pool,
)
from touchstone.core.times import read_time
from touchstone.hooks.records import Record
from touchstone.settings import Settings
from touchstone_agent.protocol.messages import SlotClass
from touchstone_agent.protocol.words import build_line

SYSTEM_POOLS: Final = {
    QUEUE_POOL: (0, "Touchstone: tasks wait here to be placed; must have no slots"),
    FINISH_POOL: (UNLIMITED, "Touchstone: what runs on after a container has ended"),
    DECK_POOL: (UNLIMITED, "Touchstone: the next trainings stand ready here"),
}
"""Pools whose slots are part of how Touchstone works, and not for admins to choose."""


class PoolFacts(Protocol):
    """A pool of Airflow, and what it holds."""

    @property
    def slots(self) -> int:
        """Return what admins have set; -1 for unlimited."""
        ...

    @property
    def running(self) -> int:
        """Return how many instances run in it."""
        ...

    @property
    def queued(self) -> int:
        """Return how many have been handed to the executor."""
        ...

    @property
    def deferred(self) -> int:
        """Return how many are deferred in it."""
        ...

    @property
    def scheduled(self) -> int:
        """Return how many want a slot of it."""
        ...

    @property
    def include_deferred(self) -> bool:
        """Tell whether what is deferred holds a slot."""
        ...


def find_capability(record: Mapping[str, Any]) -> Capability:
    """Return what may be relied on of a server: what it detects, and no more than declared."""
    declared = record.get("declared")
    return intersect(
        Declared(**{key: declared.get(key) for key in ("cuda", "vram_gib", "ram_gib")})
        if declared
        else None,
        find_detected(record),
    )


def list_warnings(
    name: str, kinds: Collection[SlotClass], capability: Capability, settings: Settings
) -> Iterator[str]:
    """
    Say what of a server lies idle by the installation's settings.

    :param name: The server.
    :param kinds: What it takes at all.
    :param capability: What may be relied on of it.
    :param settings: Which images there are.
    """
    if capability.cuda and SlotClass.TRAINING in kinds and not settings.trainer_image_cuda:
        yield (
            f"{name} has a GPU and TOUCHSTONE_TRAINER_IMAGE_CUDA is not set: "
            "its trainings compute on the CPU"
        )


def list_rental_warnings(settings: Settings) -> Iterator[str]:
    """Say the same of pods, which have a GPU each."""
    if not (settings.runpod.image or settings.trainer_image_cuda):
        yield (
            "pods have a GPU and neither TOUCHSTONE_RUNPOD_IMAGE nor "
            "TOUCHSTONE_TRAINER_IMAGE_CUDA is set: their trainings compute on the CPU"
        )


def compare(
    name: str,
    declared: Mapping[str, Any] | None,
    record: Record,
    pools: Mapping[str, PoolFacts],
    *,
    is_missing_told: bool,
) -> Iterator[str]:
    """Say where pools and machine are otherwise than the fleet file has them."""
    drained = record.get("drained")
    for key in ("slots", "validation_slots"):
        pool = get_pool_name(name, key)
        facts = pools.get(pool)
        if facts is None:
            if is_missing_told:
                yield f"{pool}: the pool is missing, so nothing starts there"
            continue
        if drained and facts.slots != 0:
            yield (
                f"{pool}: drained by {drained['by']}, but the pool has "
                f"{count(facts.slots, 'slot')} again"
            )
        elif not drained and declared and declared[key] not in {None, facts.slots}:
            yield tell_slots(pool, facts.slots, declared[key])
        if not facts.include_deferred:
            yield (
                f"{pool}: the pool does not count what is deferred, so more would start than it "
                "has slots; set `Include Deferred` on Airflow's Pools page"
            )
    yield from _compare_machine(name, declared, record, pools.get(name))


def _compare_machine(
    name: str, declared: Mapping[str, Any] | None, record: Record, pool: PoolFacts | None
) -> Iterator[str]:
    inventory = record.get("inventory")
    if not inventory:
        yield f"{name}: its agent has not been heard of yet, so nothing is known of its GPUs"
        return
    cuda = (declared or {}).get("cuda")
    if cuda and not count_shares(record):
        yield f"{name}: declared with CUDA, but no GPU was detected: used for CPU tasks only"
    if pool is None:
        return
    refusal = find_refusal(f"{name}: pool", name, pool.slots, record, cuda)
    takes = int(inventory.get("slots") or 0)
    if refusal:
        yield refusal
    elif not 0 <= pool.slots <= takes:
        yield f"{name}: the pool has {_tell(pool.slots)}, but its agent takes {takes} at a time"


def compare_system(pools: Mapping[str, PoolFacts], *, is_missing_told: bool) -> Iterator[str]:
    """Say which of Touchstone's own pools are otherwise than they must be."""
    for name, (slots, _) in SYSTEM_POOLS.items():
        facts = pools.get(name)
        if facts is None:
            if is_missing_told:
                yield f"{name}: the pool is missing; `touchstone fleet apply` makes it"
        elif facts.slots != slots:
            yield (
                f"{name}: the pool has {_tell(facts.slots)} and must have {_tell(slots)}; "
                "set that on Airflow's Pools page"
            )


def build_row(
    record: Record, pools: Mapping[str, PoolFacts], now: datetime, settings: Settings
) -> Record:
    """
    Return a server as the fleet's status shows it: plain JSON values.

    :param record: The server's record.
    :param pools: All pools.
    :param now: The time.
    :param settings: How long it may be silent and be taken for alive, and which images there are.
    """
    name = str(record["server"])
    declared, inventory = record.get("declared"), record.get("inventory") or {}
    heard = record.get("heartbeat_at")
    age = (now - read_time(heard)).total_seconds() if heard else None
    capability = find_capability(record)
    differences = [] if declared else [f"{name}: the fleet file does not name it"]
    differences += compare(name, declared, record, pools, is_missing_told=True)
    return {
        "server": name,
        "description": (declared or {}).get("description") or "",
        "is_alive": age is not None and age <= settings.silence_seconds,
        "heartbeat_age_seconds": None if age is None else max(0.0, round(age, 1)),
        **show_pool(pools.get(name)),
        **{
            f"validation_{key}": value
            for key, value in show_pool(pools.get(build_validation_pool(name))).items()
        },
        "capability": {
            "cuda": capability.cuda,
            "vram_gib": round(capability.vram_gib, 1),
            "ram_gib": round(capability.ram_gib, 1),
        },
        "gpus": [str(gpu.get("name")) for gpu in inventory.get("gpus") or ()],
        "gpu_shares": max(map(find_shares, inventory.get("gpus") or ()), default=1),
        "gpu_driver": find_driver(record),
        "declared": declared,
        "drained": record.get("drained"),
        "holds": [
            {
                "until": hold.until.isoformat(),
                "told": tell_hold(hold, now),
                "times": hold.times,
                "label": hold.label,
            }
            for hold in list_holds(record)
            if hold.until > now
        ],
        "differences": differences,
        "warnings": list(list_warnings(name, find_kinds(record), capability, settings)),
    }


def build_odd_row(name: str, why: str) -> Record:
    """Return what is shown of a server whose record makes no sense, so that all others are."""
    return {
        "server": name,
        "description": "",
        "is_alive": False,
        "heartbeat_age_seconds": None,
        **show_pool(None),
        **{f"validation_{key}": value for key, value in show_pool(None).items()},
        "capability": {"cuda": False, "vram_gib": 0.0, "ram_gib": 0.0},
        "gpus": [],
        "gpu_shares": 1,
        "gpu_driver": None,
        "declared": None,
        "drained": None,
        "holds": [],
        "differences": [why],
        "warnings": [],
    }


def tell_odd(name: str, error: BaseException | None) -> str:
    """Return what is said of a server whose record makes no sense."""
    return f"{name}: its record makes no sense, so it gets nothing: {build_line(repr(error))}"


def show_pool(facts: PoolFacts | None) -> Record:
    """Return a pool's slots (``None`` if it is missing) and how many are held."""
    if facts is None:
        return {"slots": None, "in_use": 0}
    return {"slots": facts.slots, "in_use": count_held(facts)}


def show_rental(rental: Record, reaper: Record) -> Record:
    """
    Return how RunPod is: its money, what keeps us from renting, and the reaper's last proof.

    :param rental: What the dispatcher has noted of the account; empty without one.
    :param reaper: What the reaper has noted.
    """
    names = ("balance_usd", "spend_per_hour", "block", "checked_at")
    return {
        "is_connected": bool(rental.get("is_connected")),
        "is_low": bool(rental.get("is_low")),
        **{name: rental.get(name) for name in names},
        "proof": reaper.get("proof"),
    }


def count_held(facts: PoolFacts) -> int:
    """Return how many instances hold a slot of a pool."""
    return facts.running + facts.queued + facts.deferred


def find_driver(record: Mapping[str, Any]) -> str | None:
    """Return the driver of a server's GPUs; ``None`` without GPUs, or if its agent does not say."""
    gpus = (record.get("inventory") or {}).get("gpus") or ()
    return next((str(gpu["driver"]) for gpu in gpus if gpu.get("driver")), None)


def tell_slots(pool: str, has: int, says: int) -> str:
    """Return the sentence about a pool that has other slots than the fleet file says."""
    return f"{pool}: the pool has {_tell(has)}, the file says {says}: kept"


def _tell(slots: int) -> str:
    return "unlimited slots" if slots < 0 else count(slots, "slot")


def tell_both(slots: Mapping[str, int]) -> str:
    """Return a server's slots of both kinds in words."""
    return f"{_tell(slots['slots'])} and {slots['validation_slots']} for validations"


def count(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def get_pool_name(name: str, key: str) -> str:
    """Return a server's pool of one kind: ``slots`` or ``validation_slots``."""
    return name if key == "slots" else build_validation_pool(name)


def choose_first_slots(key: str, declared: Mapping[str, Any], record: Record) -> int:
    """Return the slots of a pool that is made now: the file's, or as many as the agent takes."""
    if declared[key] is not None:
        return int(declared[key])
    takes = (record.get("inventory") or {}).get(key)
    slots = 1 if takes is None else int(takes)
    is_limited = key == "slots" and declared["cuda"] is not False and count_shares(record)
    return min(slots, count_shares(record)) if is_limited else slots


def find_refusal(
    place: str, name: str, slots: int | None, record: Record, cuda: bool | None
) -> str | None:
    """Return why a server may not have so many slots; a machine without GPUs may have any."""
    most = count_shares(record)
    if not most or cuda is False or slots is None or 0 <= slots <= most:
        return None
    number = "unlimited" if slots < 0 else str(slots)
    gpus = count(len(record["inventory"]["gpus"]), "GPU")
    shared = "" if most == len(record["inventory"]["gpus"]) else f" with {most} shares"
    return f"{place}: {number}, but {name} has {gpus}{shared}: at most {most}"
