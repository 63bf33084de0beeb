"""How servers and pools are, and where that is otherwise than the fleet file has it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final, Protocol

from pydantic import JsonValue

from touchstone.core.holds import list_holds
from touchstone.core.images import Fit, list_misfits, read_fit
from touchstone.core.placement import Capability
from touchstone.core.placement_inputs import (
    count_shares,
    find_capability,
    find_kinds,
    find_shares,
    find_taken,
    tell_hold,
)
from touchstone.core.pools import (
    FINISH_POOL,
    PRESTAGED_POOL,
    QUEUE_POOL,
    UNLIMITED,
    build_pool,
    build_validation_pool,
)
from touchstone.core.records.notes import ReaperNote, RentalNote
from touchstone.core.records.servers import DeclaredServer, Server
from touchstone.settings import Settings
from touchstone_agent.protocol.messages import SlotClass
from touchstone_agent.protocol.words import build_line

Row = dict[str, JsonValue]
"""A row, or a part, of the fleet's status: where JSON goes out."""

SYSTEM_POOLS: Final = {
    QUEUE_POOL: (0, "Touchstone: tasks wait here to be placed; must have no slots"),
    FINISH_POOL: (UNLIMITED, "Touchstone: what runs on after a container has ended"),
    PRESTAGED_POOL: (UNLIMITED, "Touchstone: the next trainings stand ready here"),
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
        """Return how many tasks wait for a slot of it."""
        ...

    @property
    def include_deferred(self) -> bool:
        """Tell whether a deferred task uses a slot."""
        ...


def list_warnings(
    name: str,
    kinds: Collection[SlotClass],
    capability: Capability,
    fit: Fit,
    settings: Settings,
) -> Iterator[str]:
    """
    Say what of a server lies idle, or fails, by the installation's settings.

    :param name: The server.
    :param kinds: What it takes at all.
    :param capability: Its capabilities, of declared and detected the stricter.
    :param fit: What its agent tells of drivers and images.
    :param settings: Which images there are.
    """
    yield from list_misfits(
        name,
        fit,
        has_cuda=capability.cuda and SlotClass.TRAINING in kinds,
        image=settings.trainer_image,
        image_cuda=settings.trainer_image_cuda,
    )


def list_rental_warnings(settings: Settings, fits: Iterable[Fit]) -> Iterator[str]:
    """
    Say the same of pods, which have a GPU each.

    :param settings: Which images there are.
    :param fits: The agents' reports on images; only agents can read an image's labels.
    """
    runpod = settings.runpod
    if not (runpod.image or settings.trainer_image_cuda):
        yield (
            "pods have a GPU and neither TOUCHSTONE_RUNPOD_IMAGE nor "
            "TOUCHSTONE_TRAINER_IMAGE_CUDA is set: their trainings compute on the CPU"
        )
        return
    image = runpod.image or settings.trainer_image_cuda
    backends = {known.backend for fit in fits if (known := fit.find(image)) is not None}
    if "cpu" in backends:
        yield (
            f"pods have a GPU and run {image}, which computes on the CPU only: their trainings "
            "leave the GPU idle; build the target pod-cuda"
        )
    elif runpod.min_cuda is None:
        yield (
            "TOUCHSTONE_RUNPOD_MIN_CUDA is not set, so pods may come with a driver that is too "
            f"old: set it to the label touchstone.cuda of {image}; an image of the reference "
            "trainer without that label computes on the CPU, and leaves the GPU of each pod idle"
        )


def compare(
    name: str,
    declared: DeclaredServer | None,
    server: Server,
    pools: Mapping[str, PoolFacts],
    *,
    is_missing_told: bool,
) -> Iterator[str]:
    """Say where pools and machine are otherwise than the fleet file has them."""
    drained = server.drained
    for kind in SlotClass:
        pool = build_pool(name, is_validation=kind is SlotClass.VALIDATION)
        said = get_declared_slots(declared, kind) if declared else None
        facts = pools.get(pool)
        if facts is None:
            if is_missing_told:
                yield f"{pool}: the pool is missing, so nothing starts there"
            continue
        if drained and facts.slots != 0:
            yield (
                f"{pool}: drained by {drained.by}, but the pool has "
                f"{count(facts.slots, 'slot')} again"
            )
        elif not drained and said is not None and said != facts.slots:
            yield tell_slots(pool, facts.slots, said)
        if not facts.include_deferred:
            yield (
                f"{pool}: the pool does not count what is deferred, so more would start than it "
                "has slots; set `Include Deferred` on Airflow's Pools page"
            )
    yield from _compare_machine(name, declared, server, pools.get(name))


def _compare_machine(
    name: str, declared: DeclaredServer | None, server: Server, pool: PoolFacts | None
) -> Iterator[str]:
    if server.inventory is None:
        yield f"{name}: its agent has not been heard of yet, so nothing is known of its GPUs"
        return
    cuda = declared.cuda if declared else None
    if cuda and not count_shares(server):
        yield f"{name}: declared with CUDA, but no GPU was detected: used for CPU tasks only"
    if pool is None:
        return
    refusal = find_refusal(f"{name}: pool", name, pool.slots, server, cuda)
    takes = server.inventory.slots or 0
    if refusal:
        yield refusal
    elif not 0 <= pool.slots <= takes:
        yield f"{name}: the pool has {_format(pool.slots)}, but its agent takes {takes} at a time"


def compare_system(pools: Mapping[str, PoolFacts], *, is_missing_told: bool) -> Iterator[str]:
    """Say which of Touchstone's own pools are otherwise than they must be."""
    for name, (slots, _) in SYSTEM_POOLS.items():
        facts = pools.get(name)
        if facts is None:
            if is_missing_told:
                yield f"{name}: the pool is missing; `touchstone fleet apply` makes it"
        elif facts.slots != slots:
            yield (
                f"{name}: the pool has {_format(facts.slots)} and must have {_format(slots)}; "
                "set that on Airflow's Pools page"
            )


def build_row(
    server: Server, pools: Mapping[str, PoolFacts], now: datetime, settings: Settings
) -> Row:
    """
    Return a server as the fleet's status shows it: plain JSON values.

    :param server: The server.
    :param pools: All pools.
    :param now: The time.
    :param settings: How long it may be silent and be taken for alive, and which images there are.
    """
    name, declared, drained, heard = (
        server.server,
        server.declared,
        server.drained,
        server.heartbeat_at,
    )
    age = (now - heard).total_seconds() if heard else None
    capability = find_capability(server)
    differences = [] if declared else [f"{name}: the fleet file does not name it"]
    differences += compare(name, declared, server, pools, is_missing_told=True)
    return {
        "server": name,
        "description": declared.description if declared else "",
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
            "free_disk_gib": None
            if capability.free_disk_gib is None
            else round(capability.free_disk_gib, 1),
        },
        "gpus": [str(gpu.name) for gpu in server.gpus],
        "gpu_shares": max(map(find_shares, server.gpus), default=1),
        "gpu_driver": find_driver(server),
        "declared": declared.dump() if declared else None,
        "drained": drained.dump() if drained else None,
        "holds": [
            {
                "until": hold.until.isoformat(),
                "told": tell_hold(hold, now),
                "times": hold.times,
                "label": hold.label,
            }
            for hold in list_holds(server)
            if hold.until > now
        ],
        "differences": [*differences],
        "warnings": list(
            list_warnings(name, find_kinds(server), capability, read_fit(server), settings)
        ),
    }


def build_odd_row(name: str, why: str) -> Row:
    """Return the row of a server with an unreadable record, so that all others are shown."""
    return {
        "server": name,
        "description": "",
        "is_alive": False,
        "heartbeat_age_seconds": None,
        **show_pool(None),
        **{f"validation_{key}": value for key, value in show_pool(None).items()},
        "capability": {"cuda": False, "vram_gib": 0.0, "ram_gib": 0.0, "free_disk_gib": None},
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
    """Return the line about a server with an unreadable record."""
    return f"{name}: its record makes no sense, so it gets nothing: {build_line(repr(error))}"


def show_pool(facts: PoolFacts | None) -> dict[str, int | None]:
    """Return a pool's slots (``None`` if it is missing) and how many are held."""
    if facts is None:
        return {"slots": None, "in_use": 0}
    return {"slots": facts.slots, "in_use": count_held(facts)}


def show_rental(rental: RentalNote, reaper: ReaperNote) -> Row:
    """
    Return how RunPod is: its money, what keeps us from renting, and the reaper's last proof.

    :param rental: What the dispatcher has noted of the account.
    :param reaper: What the reaper has noted.
    """
    names = ("balance_usd", "spend_per_hour", "block", "checked_at")
    noted = rental.dump()
    return {
        "is_connected": rental.is_connected,
        "is_low": rental.is_low,
        **{name: noted.get(name) for name in names},
        "proof": reaper.proof.dump() if reaper.proof else None,
    }


def count_held(facts: PoolFacts) -> int:
    """Return how many instances hold a slot of a pool."""
    return facts.running + facts.queued + facts.deferred


def find_driver(server: Server) -> str | None:
    """Return the driver of a server's GPUs; ``None`` without GPUs, or if its agent does not say."""
    return next((gpu.driver for gpu in server.gpus if gpu.driver), None)


def tell_slots(pool: str, has: int, says: int) -> str:
    """Return the sentence about a pool that has other slots than the fleet file says."""
    return f"{pool}: the pool has {_format(has)}, the file says {says}: kept"


def _format(slots: int) -> str:
    return "unlimited slots" if slots < 0 else count(slots, "slot")


def tell_both(slots: Mapping[SlotClass, int]) -> str:
    """Return a server's slots of both kinds in words."""
    return f"{_format(slots[SlotClass.TRAINING])} and {slots[SlotClass.VALIDATION]} for validations"


def count(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def get_declared_slots(declared: DeclaredServer, kind: SlotClass) -> int | None:
    """Return what the fleet file says of a server's slots of one kind."""
    return declared.slots if kind is SlotClass.TRAINING else declared.validation_slots


def choose_first_slots(kind: SlotClass, declared: DeclaredServer, server: Server) -> int:
    """Return the slots of a pool that is made now: the file's, or as many as the agent takes."""
    said = get_declared_slots(declared, kind)
    if said is not None:
        return said
    takes = find_taken(server, kind)
    slots = 1 if takes is None else takes
    is_training, shares = kind is SlotClass.TRAINING, count_shares(server)
    is_limited = is_training and declared.cuda is not False and shares
    return min(slots, shares) if is_limited else slots


def find_refusal(
    place: str, name: str, slots: int | None, server: Server, cuda: bool | None
) -> str | None:
    """Return why a server may not have so many slots; a machine without GPUs may have any."""
    most = count_shares(server)
    if not most or cuda is False or slots is None or 0 <= slots <= most:
        return None
    number = "unlimited" if slots < 0 else str(slots)
    gpus = count(len(server.gpus), "GPU")
    shared = "" if most == len(server.gpus) else f" with {most} shares"
    return f"{place}: {number}, but {name} has {gpus}{shared}: at most {most}"
