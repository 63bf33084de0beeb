"""What waits and what there is, as placement sees it: built from records and pools. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from touchstone.core.attempts import OUT_OF_MEMORY, build_next_spec, find_attempts_of_run
from touchstone.core.eligibility import Capability, Declared, Needs, Resource, Running, intersect
from touchstone.core.fairness import TaskBackoff
from touchstone.core.holds import LACKS, list_holds
from touchstone.core.images import read_fit
from touchstone.core.outcomes import Outcome
from touchstone.core.pools import RUNPOD_POOL
from touchstone.core.reasons import tell_time
from touchstone.core.records.servers import DeclaredServer, Server, ServerHold, StoredGpu
from touchstone.core.records.tasks import Attempt, Task
from touchstone.core.retries import is_unrented
from touchstone.core.schedule import Schedule
from touchstone.core.tasks import TaskSpec, find_held_data
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.protocol.messages import AttemptPhase, SlotClass
from touchstone_agent.protocol.private import HeldData

NOTHING_LINGERS: Mapping[SlotClass, int] = Counter()

_MIB_PER_GIB = 1024

FIRST_BACKOFF = timedelta(seconds=30)
LONGEST_BACKOFF = timedelta(minutes=30)
"""How long a task waits after several servers have refused it, at first and at most."""
FREE_REFUSALS = 2
"""So many servers in a row may refuse a task before it waits: the next one may well take it."""

# Without chance: it is worked out anew at each look, and people are told until when.
_BACKOFF = Backoff(
    first_seconds=FIRST_BACKOFF.total_seconds(),
    cap_seconds=LONGEST_BACKOFF.total_seconds(),
    jitter=0,
)


def build_needs(task: Task) -> Needs:
    """Return what a task's next attempt asks of a server, by its attempts so far."""
    spec, grown = task.spec, build_next_spec(task)
    placement = spec.schedule.placement
    if grown.limits.memory_mib > spec.limits.memory_mib:
        least = max(placement.min_ram_gib, grown.limits.memory_mib / _MIB_PER_GIB)
        placement = placement.model_copy(update={"min_ram_gib": least})
    return Needs(
        kind=spec.kind,
        placement=placement,
        labels=build_labels(spec),
        image=spec.image,
        image_cuda=spec.image_cuda,
        data=find_held_data(spec),
    )


def build_schedule_needs(
    schedule: Schedule, *, system: str, submitted_by: str, data: HeldData | None = None
) -> Needs:
    """
    Return what the trainings of a schedule will ask for, before there are any.

    :param data: The private data set of its event; ``None`` for none.
    """
    labels = {system, f"user:{submitted_by}"}
    return Needs(
        kind=SlotClass.TRAINING,
        placement=schedule.placement,
        labels=frozenset(labels | {schedule.job} if schedule.job else labels),
        data=data,
    )


def find_duration(attempt: Attempt) -> float | None:
    """Return how many seconds an attempt ran, if it ended well."""
    began, ended = attempt.running_at, attempt.exited_at
    if began is None or ended is None or attempt.outcome is not Outcome.SUCCEEDED:
        return None
    return max(0.0, (ended - began).total_seconds())


def build_labels(spec: TaskSpec) -> frozenset[str]:
    """Return what servers' allow and deny patterns are matched with."""
    what = "program" if spec.program else spec.system.value
    labels = {what, f"user:{spec.submitted_by}"}
    return frozenset(labels | {spec.schedule.job} if spec.schedule.job else labels)


def find_avoided(task: Task) -> frozenset[str]:
    """
    Return the servers on which attempts of this run failed for no fault of the task's.

    Being full is not among them: a slot that was taken is free again a moment later. Nor is
    running out of memory, which asks for a larger server, not for another one.
    """
    return frozenset(
        attempt.server
        for attempt in find_attempts_of_run(task)
        if attempt.server
        and attempt.outcome in {Outcome.FAILED_INFRASTRUCTURE, Outcome.LOST}
        and (attempt.phase is not AttemptPhase.REJECTED or attempt.failure_class in LACKS)
        and attempt.failure_class != OUT_OF_MEMORY
    )


def find_backoff(task: Task) -> TaskBackoff | None:
    """
    Return for how long a task keeps away from where its last attempts were not taken.

    A pod that could not be rented is tried again after half a minute, then after twice as long
    each time: the catalogue, a balance or a budget rarely change within seconds. Servers that
    refuse one after the other are waited for in the same way, from the third on: Airflow's tries
    must outlast whatever is wrong with all of them.
    """
    rentals = refusals = 0
    places = set()
    for attempt in reversed(find_attempts_of_run(task)):
        if is_unrented(attempt):
            rentals += 1
            places.add(RUNPOD_POOL)
        elif attempt.phase is AttemptPhase.REJECTED:
            refusals += 1
            places.add(str(attempt.server))
        else:
            break
    ended = task.newest.ended_at
    waits = [_BACKOFF.after(row) for row in (rentals, refusals - FREE_REFUSALS) if row > 0]
    if not waits or not ended:
        return None
    if refusals <= FREE_REFUSALS:
        places = {RUNPOD_POOL}
    until = ended + timedelta(seconds=max(waits))
    return TaskBackoff(until=until, reason=str(task.newest.reason), places=frozenset(places))


def build_resource(
    server: Server,
    *,
    slots: int,
    free: int,
    validation_slots: int,
    validation_free: int,
    running: Iterable[Running] = (),
    validation_running: Iterable[Running] = (),
    lingering: Mapping[SlotClass, int] = NOTHING_LINGERS,
    others: int = 0,
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
    :param others: Slots for trainings that tasks of other DAGs hold.
    :param silence: How long it may say nothing before nothing new is sent to it.
    """
    declared = server.declared or DeclaredServer()
    heard = server.heartbeat_at
    holds = [hold for hold in list_holds(server) if hold.until > now]
    running, validation_running = tuple(running), tuple(validation_running)
    left, validation_left = lingering[SlotClass.TRAINING], lingering[SlotClass.VALIDATION]
    # What the agent takes at a time, and not what somebody has set on the Pools page.
    most = find_slots(server, SlotClass.TRAINING, slots)
    validation_most = find_slots(server, SlotClass.VALIDATION, validation_slots)
    return Resource(
        name=server.server,
        priority=declared.priority,
        slots=most,
        free=min(free, most - len(running) - others) - left,
        validation_slots=validation_most,
        validation_free=min(validation_free, validation_most - len(validation_running))
        - validation_left,
        kinds=find_kinds(server),
        capability=find_capability(server),
        allow=declared.allow,
        deny=declared.deny,
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
        gpu_shares=max(map(find_shares, server.gpus), default=1),
        fit=read_fit(server),
        gpu_price_per_hour=declared.gpu_price_per_hour,
        held=find_held_sets(server),
    )


def tell_hold(hold: ServerHold, now: datetime) -> str:
    """Return what a server does not take, until when, and why, without the server's name."""
    what = f"no {hold.kind}s" if hold.kind else "nothing"
    if hold.image:
        what = f"nothing of image {hold.image}"
    if hold.label:
        what += f" of {hold.label.removeprefix('user:')}"
    return f"takes {what} until {tell_time(hold.until, now)}: {hold.reason}"


def find_held_sets(server: Server) -> frozenset[HeldData]:
    """Return the private data sets that a server holds, by its agent's last word."""
    listed = server.inventory.private_data if server.inventory else ()
    return frozenset(each for each in listed if isinstance(each, HeldData))


def find_slots(server: Server, kind: SlotClass, slots: int) -> int:
    """
    Return how many tasks of a kind a server takes at a time.

    :param slots: What its pool says.
    :return: The same, or what its agent says if that is less.
    """
    takes = find_taken(server, kind)
    return slots if takes is None else min(slots, takes)


def find_taken(server: Server, kind: SlotClass) -> int | None:
    """Return how many tasks of a kind a server's agent takes; ``None`` if it has not said."""
    if server.inventory is None:
        return None
    is_training = kind is SlotClass.TRAINING
    return server.inventory.slots if is_training else server.inventory.validation_slots


def find_kinds(server: Server) -> frozenset[SlotClass]:
    """
    Return what a server's agent takes at all.

    One that was set up without slots for trainings refuses them, whatever its pool says: that is
    how a server for validations alone is made, and no admin has drained it.
    """
    return frozenset(kind for kind in SlotClass if find_taken(server, kind) != 0)


def find_capability(server: Server) -> Capability:
    """Return what may be relied on of a server: what it detects, and no more than declared."""
    said = server.declared or DeclaredServer()
    return intersect(
        Declared(cuda=said.cuda, vram_gib=said.vram_gib, ram_gib=said.ram_gib),
        find_detected(server),
    )


def find_detected(server: Server) -> Capability | None:
    """Return what a server's agent has found there; ``None`` before its first word."""
    if server.inventory is None:
        return None
    # A task gets any one of them, or its share of it.
    vram_mib = min(((gpu.memory_mib or 0) / find_shares(gpu) for gpu in server.gpus), default=0)
    disk_mib = server.inventory.disk_free_mib
    return Capability(
        cuda=bool(server.gpus),
        vram_gib=vram_mib / _MIB_PER_GIB,
        ram_gib=(server.inventory.memory_mib or 0) / _MIB_PER_GIB,
        free_disk_gib=None if disk_mib is None else disk_mib / _MIB_PER_GIB,
    )


def count_shares(server: Server) -> int:
    """Return how many trainings a server's GPUs are enough for; 0 without GPUs."""
    return sum(map(find_shares, server.gpus))


def find_shares(gpu: StoredGpu) -> int:
    """Return how many trainings share a GPU of an inventory; 1 from agents that do not say."""
    return gpu.shares or 1
