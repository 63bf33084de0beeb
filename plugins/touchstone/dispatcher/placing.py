"""The placement loop: waiting task instances get a server as soon as a slot is really free."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from touchstone.core.attempts import find_settled, get_ref, is_ended
from touchstone.core.conf import Platform
from touchstone.core.demand import build_resource
from touchstone.core.durations import History, describe_task
from touchstone.core.eligibility import Needs, Resource, Running, find_unfit
from touchstone.core.inventory import Known, TaskKey, count_lingering, identify, read_inventory
from touchstone.core.placement import Placement, Plan, Waiting, plan
from touchstone.core.pools import (
    DECK_POOL,
    RUNPOD_POOL,
    build_pool,
    build_validation_pool,
)
from touchstone.core.sealing import open_note, seal_note
from touchstone.core.times import read_time
from touchstone.core.usage import RecentUse, SlotUse
from touchstone.dispatcher.book import Key, TaskBook
from touchstone.dispatcher.control import Control
from touchstone.dispatcher.metadata.pools import Instance, LockedPools
from touchstone.dispatcher.metadata.rows import TRAINING
from touchstone.dispatcher.rental import Rental
from touchstone.dispatcher.tally import Tally
from touchstone.dispatcher.troubles import Troubles
from touchstone.hooks.records import Record
from touchstone.hooks.starts import Starter, StartOrder
from touchstone.settings import Settings
from touchstone_agent.protocol.messages import SlotClass

log = logging.getLogger(__name__)

ENDED_LIFE = timedelta(minutes=3)
"""How long the end of an attempt is remembered: by then its server has told what it still runs, or
is taken for dead."""

RECOVER_AFTER = timedelta(seconds=15)
"""How long a start that was decided may be under way before somebody looks whether it happened."""


class Airflow(Protocol):
    """What placing needs of Airflow."""

    def read_instances(self) -> list[Instance]:
        """Return the task instances that wait for a server, or have one."""

    def lock_pools(self) -> AbstractContextManager[LockedPools]:
        """Hold the pools for one round of decisions."""


@dataclass(frozen=True, kw_only=True)
class View:
    """
    What one tick saw and decided; estimates and the published queue are made from it.

    :param waiting: What waits, in no order.
    :param resources: What there is.
    :param plan: What was decided.
    :param usage: Training slots' worth that each submitter has in use, or had of late.
    :param validation_usage: The same of validation slots.
    :param weights: Share of each submitter.
    """

    at: datetime
    waiting: Sequence[Waiting] = ()
    resources: Sequence[Resource] = ()
    plan: Plan = field(default_factory=Plan)
    usage: Mapping[str, float] = field(default_factory=dict)
    validation_usage: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    is_paused: bool = False


class Placer:
    """
    Decides, and starts what stands on deck.

    Stateless but for caches: whatever it forgets is read again, and several may run. Only what
    submitters had of late is known to no one else; what is lost of it was to fade within hours.

    :param airflow: Airflow's instances and pools.
    :param book: The task records behind the instances.
    :param servers: Returns the server records.
    :param control: Returns what people have decided.
    :param starter: Starts what is on deck.
    :param rental: RunPod as a resource.
    :param history: How long tasks take.
    :param settings: Limits of the installation.
    :param clock: The time, UTC.
    :param get_key: Returns the key that seals placements: Airflow's users may write where they
        are kept.
    :param troubles: Where is counted what could not be placed or started.
    """

    def __init__(
        self,
        *,
        airflow: Airflow,
        book: TaskBook,
        servers: Callable[[], Iterable[Record]],
        control: Callable[[], Control],
        starter: Starter,
        rental: Rental,
        history: History,
        settings: Settings,
        clock: Callable[[], datetime],
        get_key: Callable[[], bytes],
        troubles: Troubles | None = None,
    ) -> None:
        self._troubles = troubles or Troubles(clock)
        self._airflow = airflow
        self._get_key = get_key
        self._book = book
        self._servers = servers
        self._control = control
        self._starter = starter
        self._rental = rental
        self._history = history
        self._settings = settings
        self._clock = clock
        self._exited: set[tuple[Key, int]] = set()
        self._ended: dict[Known, datetime] = {}
        self._exited_lock = threading.Lock()
        self._started: set[tuple[Key, int]] = set()
        self._use = {kind: RecentUse() for kind in SlotClass}
        self.estimates: Mapping[tuple[str, str], Mapping[str, Any]] = {}
        self.view = View(at=clock())

    def note_exit(self, record: Record) -> None:
        """
        Remember that a task's container has ended: its slot is free before Airflow knows.

        And before the server's next heartbeat, whose inventory does not have it any more.
        """
        known = identify(get_ref(record))
        with self._exited_lock:
            self._exited.add((self._book.build_key(record), int(record["attempt"])))
            self._ended[known] = self._clock()

    def tick(self) -> None:
        """
        Make one round of decisions.

        :raises PoolsBusy: If a scheduler holds the pools; try again at once.
        :raises TransientError: If a store cannot be reached.
        """
        now, control = self._clock(), self._control()
        with self._exited_lock:
            exited = frozenset(self._exited)
            recent = now - ENDED_LIFE
            self._ended = {known: at for known, at in self._ended.items() if at > recent}
        instances = [self._open(instance) for instance in self._airflow.read_instances()]
        self._book.load(instances)
        servers = [server for server in self._servers() if server.get("public_key")]
        placed: list[tuple[Instance, Mapping[str, Any]]] = []
        with self._airflow.lock_pools() as locked:
            tally = Tally(locked, instances, exited)
            tally.return_to_queue(self._find_dead(servers, now))
            tally.release()
            self._pass_on(tally)
            resources = self._build_resources(servers, tally, now)
            waiting, by_key = self._build_waiting(tally.waiting, now)
            usage = self._count_usage(SlotClass.TRAINING, tally.held, now)
            validation_usage = self._count_usage(SlotClass.VALIDATION, tally.held, now)
            decided = plan(
                waiting,
                resources,
                now=now,
                usage=usage,
                validation_usage=validation_usage,
                weights=control.weights,
                cuda_grace=timedelta(seconds=self._settings.cuda_grace_seconds),
                is_paused=control.is_paused,
            )
            by_name = {resource.name: resource for resource in resources}
            for placement in decided.placements:
                instance = by_key[placement.key]
                resource = by_name[placement.resource]
                is_validation = instance.task_id != TRAINING
                pool = build_pool(resource.name, is_validation=is_validation)
                note: dict[str, Any] = {}
                with self._troubles.guard("place", placement.key):
                    note = self._describe(instance, placement, resource, now)
                # Not in the guard: what the database has refused ends the whole transaction.
                if note and self._place(locked, instance, pool, note):
                    placed.append((instance, note))
            if not control.is_paused:
                self._fill_deck(locked, decided, by_key, resources, tally, now)
            self._park(locked, decided, by_key)
        with self._exited_lock:
            self._exited -= tally.find_settled(exited)
        self.view = View(
            at=now,
            waiting=waiting,
            resources=resources,
            plan=decided,
            usage=usage,
            validation_usage=validation_usage,
            weights=control.weights,
            is_paused=control.is_paused,
        )
        fresh = {instance.key for instance, _ in placed}
        for instance, decision in placed:
            if instance.is_on_deck:
                self._start(instance, decision)
        self._recover(tally.held, now)
        held = {instance.key for instance in tally.held}
        self._started = {m for m in self._started if m[0] in held or m[0] in fresh}

    def _find_dead(self, servers: Iterable[Record], now: datetime) -> set[str]:
        silence = timedelta(seconds=self._settings.silence_seconds)
        dead = set()
        for server in servers:
            name, is_alive = str(server["server"]), False
            with self._troubles.guard("hear of", name):
                heard = server.get("heartbeat_at")
                is_alive = heard is not None and now - read_time(heard) <= silence
            if not is_alive:
                dead.add(name)
        return dead

    def _open(self, instance: Instance) -> Instance:
        """Return an instance with its placement, if that is one of ours."""
        if instance.placement is None:
            return instance
        note = open_note(instance.placement, of=instance.id, key=self._get_key())
        return replace(instance, placement=note)

    def _place(
        self, locked: LockedPools, instance: Instance, pool: str, note: Mapping[str, Any]
    ) -> bool:
        return locked.place(instance, pool, seal_note(note, of=instance.id, key=self._get_key()))

    # --- what placement sees ---------------------------------------------------------------

    def _build_resources(
        self, servers: Iterable[Record], tally: Tally, now: datetime
    ) -> list[Resource]:
        running: dict[str, list[Running]] = {}
        waited_for: dict[str, dict[TaskKey, int]] = {}
        for instance in tally.held:
            running.setdefault(instance.pool, []).append(self._expect_end(instance, now))
            record = self._book.find(instance)
            if record is not None:
                key = record["submission_id"], record["task_id"]
                with self._troubles.guard("tell the fence of", instance.key):
                    waited_for.setdefault(instance.pool, {})[key] = _find_fence(record, instance)
        silence = timedelta(seconds=self._settings.silence_seconds)
        resources = []
        for server in servers:
            name = str(server["server"])
            training, validation = name, build_validation_pool(name)
            # A server whose record makes no sense takes nothing; the others do.
            with self._troubles.guard("place on", name):
                resources.append(
                    build_resource(
                        server,
                        slots=tally.slots(training),
                        free=tally.free(training),
                        validation_slots=tally.slots(validation),
                        validation_free=tally.free(validation),
                        running=running.get(training, ()),
                        validation_running=running.get(validation, ()),
                        lingering=count_lingering(
                            read_inventory(server),
                            waited_for={
                                **waited_for.get(training, {}),
                                **waited_for.get(validation, {}),
                            },
                            ended=self._ended,
                        ),
                        now=now,
                        silence=silence,
                    )
                )
        rented: Resource | None = None
        with self._troubles.guard("place on", RUNPOD_POOL):
            rented = self._rental.build_resource(
                slots=tally.slots(RUNPOD_POOL),
                free=tally.free(RUNPOD_POOL),
                running=running.get(RUNPOD_POOL, ()),
                # A pod boots longer than a validation takes, costs money, and has a network that
                # cannot be shut: it is for those who have no server for validations, busy or not.
                takes_validations=not any(r.get_slots(SlotClass.VALIDATION) for r in resources),
            )
        return [*resources, rented] if rented is not None else resources

    def _expect_end(self, instance: Instance, now: datetime) -> Running:
        with self._troubles.guard("expect the end of", instance.key):
            record = self._book.find(instance)
            if record is None:
                return Running(ends_p50=now, ends_p90=now)
            began = (instance.placement or {}).get("at")
            lasted = (now - read_time(began)).total_seconds() if began else 0.0
            left = self._history.expect(describe_task(record)).get_remaining(lasted)
            return Running(
                ends_p50=now + timedelta(seconds=left.p50_seconds),
                ends_p90=now + timedelta(seconds=left.p90_seconds),
            )
        return Running(ends_p50=now, ends_p90=now)

    def _build_waiting(
        self, instances: Iterable[Instance], now: datetime
    ) -> tuple[list[Waiting], dict[tuple[str, str], Instance]]:
        waiting, by_key = [], {}
        for instance in instances:
            demand = self._book.get_demand(instance)
            if demand is None:
                continue  # its record is being written, or it is of no run of ours
            by_key[demand.key] = instance
            waiting.append(
                Waiting(
                    key=demand.key,
                    needs=demand.needs,
                    priority=demand.priority,
                    since=demand.since or instance.ready_at or now,
                    order=instance.map_index,
                    submitter=demand.submitter,
                    avoid=demand.avoid,
                    failed_at=demand.failed_at,
                    hold=demand.hold,
                    expected=self._history.expect(demand.like),
                )
            )
        return waiting, by_key

    def _count_usage(
        self, kind: SlotClass, held: Iterable[Instance], now: datetime
    ) -> Mapping[str, float]:
        """Return what each submitter has of one kind of slots, or had of late."""
        slots = []
        for instance in held:
            demand = self._book.get_demand(instance)
            if demand is not None and demand.needs.kind is kind:
                began, since = (instance.placement or {}).get("at"), now
                with self._troubles.guard("tell since when there is", instance.key):
                    since = read_time(began) if began else now
                use = SlotUse(
                    key=(instance.key, instance.try_number),
                    submitter=demand.submitter,
                    since=since,
                )
                slots.append(use)
        return self._use[kind].count(slots, now)

    # --- acting ----------------------------------------------------------------------------

    def _pass_on(self, tally: Tally) -> None:
        """
        Let tries that need no server run at once: only the operator can say so to Airflow.

        What a run has to run is on record before it waits. Without a record the submission was
        accepted before, or it is none that the run may work on, or somebody has removed it. And a
        try may come after the last attempt that there may be.
        """
        for instance in tally.waiting:
            record, is_over = self._book.find(instance), False
            if record is None:
                # A training without a record is let through as well: it says so.
                is_over = self._book.is_read(instance)
            else:
                with self._troubles.guard("tell whether there is another try of", instance.key):
                    is_over = bool(
                        find_settled(
                            record,
                            run_id=instance.run_id,
                            attempt=instance.try_number,
                            max_tries=instance.max_tries,
                        )
                    )
            if is_over:
                tally.finish(instance)

    def _describe(
        self, instance: Instance, placement: Placement, resource: Resource, now: datetime
    ) -> dict[str, Any]:
        is_training = instance.task_id == TRAINING
        kind = SlotClass.TRAINING if is_training else SlotClass.VALIDATION
        return {
            "server": resource.name,
            "platform": resource.platform.value,
            "is_on_deck": False,
            "was_on_deck": instance.is_on_deck,
            "gpus": resource.get_gpus(kind),
            "gpu_shares": resource.gpu_shares,
            "gpu_price_per_hour": resource.gpu_price_per_hour,
            "reason": placement.reason,
            "at": now.isoformat(),
            "estimate": dict(self.estimates.get(placement.key) or {}) or None,
            **_describe_try(instance),
        }

    def _fill_deck(
        self,
        locked: LockedPools,
        decided: Plan,
        by_key: Mapping[tuple[str, str], Instance],
        resources: Sequence[Resource],
        tally: Tally,
        now: datetime,
    ) -> None:
        """Let the next trainings in order run ahead, so that a freed slot finds them ready."""
        placed = {placement.key for placement in decided.placements}
        on_deck = tally.count_deck() - sum(by_key[key].pool == DECK_POOL for key in placed)
        servers = [
            r for r in resources if r.platform is Platform.ON_PREM and r.is_alive and r.slots > 0
        ]
        fitting: dict[Needs, bool] = {}
        room = min(sum(r.slots for r in servers), self._settings.deck_size) - on_deck
        room = min(room, tally.free(DECK_POOL))
        for wait in decided.waits:
            if room <= 0:
                return
            instance = by_key[wait.key]
            if instance.pool == DECK_POOL or instance.task_id != TRAINING:
                continue
            demand = self._book.get_demand(instance)
            assert demand is not None  # noqa: S101 - it was planned by its demand
            needs = demand.needs
            if needs not in fitting:
                fitting[needs] = any(find_unfit(needs, server) is None for server in servers)
            if not fitting[needs]:
                continue
            note = {"is_on_deck": True, "at": now.isoformat(), **_describe_try(instance)}
            room -= self._place(locked, instance, DECK_POOL, note)

    def _park(
        self, locked: LockedPools, decided: Plan, by_key: Mapping[tuple[str, str], Instance]
    ) -> None:
        """Take runs from the scheduler's hands that nothing will happen to for a while."""
        order = dict.fromkeys(by_key[wait.key].dag_run_pk for wait in decided.waits)
        parked = {instance.dag_run_pk for instance in by_key.values() if instance.is_parked}
        # Those next in order stay: they are about to be placed, which would unpark them again.
        later = [run for run in order if run not in parked][self._settings.warm_runs :]
        if later:
            locked.park(later)

    def _build_order(self, instance: Instance, note: Mapping[str, Any]) -> StartOrder:
        demand = self._book.get_demand(instance)
        assert demand is not None  # noqa: S101 - it was planned by its demand
        return StartOrder(
            submission_id=demand.key[0],
            task_id=demand.key[1],
            run_id=instance.run_id,
            attempt=instance.try_number,
            server=str(note["server"]),
            gpus=int(note["gpus"]),
            placement=note,
            platform=Platform(note.get("platform") or Platform.ON_PREM),
        )

    def _start(self, instance: Instance, note: Mapping[str, Any]) -> None:
        # What was decided is in Airflow's database: if this fails the next look starts it.
        with self._troubles.guard("start", instance.key):
            order = self._build_order(instance, note)
            self._starter.start(order)
            self._started.add((instance.key, instance.try_number))
            log.info("%s/%s from deck to %s", order.submission_id, order.task_id, order.server)

    def _recover(self, held: Iterable[Instance], now: datetime) -> None:
        """Start what was decided, here or by a dispatcher that has died since, and never was."""
        for instance in held:
            note = instance.placement or {}
            mark = (instance.key, instance.try_number)
            if (
                instance.state != "deferred"
                or not note.get("was_on_deck")
                or mark in self._started
                or not instance.is_placed
            ):
                continue
            with self._troubles.guard("look after the start of", instance.key):
                if now - read_time(note["at"]) < RECOVER_AFTER:
                    continue
                record = self._book.read(instance)
                if record is None or _is_begun(record, instance):
                    self._started.add(mark)
                    continue
                self._start(instance, note)


def _find_fence(record: Record, instance: Instance) -> int:
    """Return the least fence that an instance's attempt can have: of this try, or of the next."""
    is_claimed = record["attempt"] == instance.try_number
    return int(record["fence"]) + (not is_claimed)


def _describe_try(instance: Instance) -> dict[str, Any]:
    """Return what a placement is good for: it says nothing of any other try."""
    return {"try": instance.try_number, "max_tries": instance.max_tries}


def _is_begun(record: Record, instance: Instance) -> bool:
    """Tell whether an agent has answered to this try of a task, or it is to have none."""
    if 0 < record["attempt"] < instance.try_number:
        return False  # it shows how the try before ended
    return bool(record.get("phase")) or is_ended(record)
