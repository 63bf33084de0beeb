"""The placement loop: waiting task instances get a server as soon as a slot is really free."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol

from touchstone.airflow_db.pools import Instance, LockedPools
from touchstone.airflow_db.rows import TRAINING, find_instance_key
from touchstone.core.durations import History, describe_task
from touchstone.core.eligibility import Needs, Resource, Running, find_unfit
from touchstone.core.enrolment import belongs_here
from touchstone.core.inventory import Known, count_lingering, identify, read_inventory
from touchstone.core.placement import Placement, Plan, Snapshot, Waiting, plan
from touchstone.core.placement_inputs import build_resource
from touchstone.core.pools import PRESTAGED_POOL, RUNPOD_POOL, build_pool, build_validation_pool
from touchstone.core.priorities import find_priority, index_changed
from touchstone.core.records.notes import Control
from touchstone.core.records.servers import ServerEntry
from touchstone.core.records.tasks import AttemptPlacement, StartEstimate, Task, TaskKey
from touchstone.core.retries import find_settled
from touchstone.core.schedule import Platform
from touchstone.core.sealing import open_note, seal_note
from touchstone.core.usage import RecentUse, SlotUse
from touchstone.dispatcher.runpod_watcher import RunPodWatcher
from touchstone.dispatcher.task_cache import Key, TaskCache
from touchstone.dispatcher.tick_state import TickState
from touchstone.services.starts import Starter, StartOrder
from touchstone.services.troubles import Troubles
from touchstone.settings import Settings
from touchstone_agent.protocol.messages import SlotClass

log = logging.getLogger(__name__)

ENDED_LIFE = timedelta(minutes=3)
"""How long the end of an attempt is remembered: by then its server has told what it still runs, or
is taken for dead."""

RECOVER_AFTER = timedelta(seconds=15)
"""How long a decided start may take before a dispatcher checks whether it happened."""


class Airflow(Protocol):
    """What placing needs of Airflow."""

    def read_instances(self) -> list[Instance]:
        """Return the task instances that wait for a server, or have one."""

    def lock_pools(self) -> AbstractContextManager[LockedPools]:
        """Hold the pools for one round of decisions."""


@dataclass(frozen=True, kw_only=True)
class View(Snapshot):
    """
    What one tick saw and decided; estimates and the published queue are made from it.

    :param plan: What was decided.
    """

    plan: Plan = field(default_factory=Plan)


class Placer:
    """
    Decides, and starts prestaged trainings.

    Stateless but for caches: whatever it forgets is read again, and several may run. Only what
    submitters used recently is kept only here; a lost count would have faded within hours.

    :param airflow: Airflow's instances and pools.
    :param book: The task records behind the instances.
    :param servers: Returns the servers.
    :param control: Returns what people have decided.
    :param starter: Starts prestaged trainings.
    :param runpod_watcher: RunPod as a resource.
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
        book: TaskCache,
        servers: Callable[[], Iterable[ServerEntry]],
        control: Callable[[], Control],
        starter: Starter,
        runpod_watcher: RunPodWatcher,
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
        self._runpod_watcher = runpod_watcher
        self._history = history
        self._settings = settings
        self._clock = clock
        self._exited: set[tuple[Key, int]] = set()
        self._ended: dict[Known, datetime] = {}
        self._exited_lock = threading.Lock()
        self._started: set[tuple[Key, int]] = set()
        self._use = {kind: RecentUse() for kind in SlotClass}
        self.estimates: Mapping[TaskKey, StartEstimate] = {}
        self.view = View(now=clock())

    def note_exit(self, task: Task) -> None:
        """
        Remember that a task's container has ended: its slot is free before Airflow knows.

        And before the server's next heartbeat, whose inventory does not have it any more.
        """
        known = identify(task.ref)
        with self._exited_lock:
            # A program's slot is given on by Airflow, which waits for its files.
            if task.spec.program is None:
                self._exited.add((find_instance_key(task), task.newest.number))
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
        servers = [
            entry
            for entry in self._servers()
            if entry.public_key and belongs_here(entry, self._settings.env)
        ]
        placed: list[tuple[Instance, AttemptPlacement]] = []
        with self._airflow.lock_pools() as locked:
            tick_state = TickState(locked, instances, exited)
            tick_state.return_to_queue(self._find_dead(servers, now))
            tick_state.release()
            self._pass_on(tick_state)
            resources = self._build_resources(servers, tick_state, now)
            waiting, by_key = self._build_waiting(tick_state.waiting, control, now)
            seen = Snapshot(
                now=now,
                waiting=waiting,
                resources=resources,
                usage=self._count_usage(SlotClass.TRAINING, tick_state.held, now),
                validation_usage=self._count_usage(SlotClass.VALIDATION, tick_state.held, now),
                weights=control.weights,
                cuda_grace=timedelta(seconds=self._settings.cuda_grace_seconds),
                is_paused=control.is_paused,
            )
            decided = plan(seen)
            by_name = {resource.name: resource for resource in resources}
            for placement in decided.placements:
                instance = by_key[placement.key]
                resource = by_name[placement.resource]
                is_validation = instance.task_id != TRAINING
                pool = build_pool(resource.name, is_validation=is_validation)
                note: AttemptPlacement | None = None
                with self._troubles.guard("place", placement.key):
                    note = self._describe(instance, placement, resource, now)
                # Not in the guard: what the database has refused ends the whole transaction.
                if note and self._place(locked, instance, pool, note):
                    placed.append((instance, note))
            if not control.is_paused:
                self._prestage(locked, decided, by_key, resources, tick_state, now)
            self._suspend(locked, decided, by_key)
        with self._exited_lock:
            self._exited -= tick_state.find_settled(exited)
        self.view = View(**vars(seen), plan=decided)
        fresh = {instance.key for instance, _ in placed}
        for instance, decision in placed:
            if instance.is_prestaged:
                self._start(instance, decision)
        self._recover(tick_state.held, now)
        held = {instance.key for instance in tick_state.held}
        self._started = {m for m in self._started if m[0] in held or m[0] in fresh}

    def _find_dead(self, servers: Iterable[ServerEntry], now: datetime) -> set[str]:
        silence = timedelta(seconds=self._settings.silence_seconds)
        dead = set()
        for entry in servers:
            is_alive = False
            with self._troubles.guard("hear of", entry.name):
                heard = entry.read().heartbeat_at
                is_alive = heard is not None and now - heard <= silence
            if not is_alive:
                dead.add(entry.name)
        return dead

    def _open(self, instance: Instance) -> Instance:
        """Return an instance with its placement, if that is one of ours."""
        if instance.placement is None:
            return instance
        note = open_note(instance.placement, of=instance.id, key=self._get_key())
        return replace(instance, placement=note)

    def _place(
        self, locked: LockedPools, instance: Instance, pool: str, note: AttemptPlacement
    ) -> bool:
        return locked.place(
            instance, pool, seal_note(note.dump(), of=instance.id, key=self._get_key())
        )

    # --- what placement sees ---------------------------------------------------------------

    def _build_resources(
        self, servers: Iterable[ServerEntry], tick_state: TickState, now: datetime
    ) -> list[Resource]:
        running: dict[str, list[Running]] = {}
        waited_for: dict[str, dict[TaskKey, int]] = {}
        for instance in tick_state.held:
            running.setdefault(instance.pool, []).append(self._expect_end(instance, now))
            task = self._book.find(instance)
            if task is not None:
                fence = _find_fence(task, instance)
                waited_for.setdefault(instance.pool, {})[task.key] = fence
        silence = timedelta(seconds=self._settings.silence_seconds)
        resources = []
        for entry in servers:
            name = entry.name
            training, validation = name, build_validation_pool(name)
            # A server whose record makes no sense takes nothing; the others do.
            with self._troubles.guard("place on", name):
                server = entry.read()
                others = tick_state.count_others(training)
                resources.append(
                    build_resource(
                        server,
                        slots=tick_state.slots(training),
                        free=tick_state.free(training),
                        validation_slots=tick_state.slots(validation),
                        validation_free=tick_state.free(validation),
                        running=running.get(training, ()),
                        validation_running=running.get(validation, ()),
                        lingering=count_lingering(
                            read_inventory(server),
                            waited_for={
                                **waited_for.get(training, {}),
                                **waited_for.get(validation, {}),
                            },
                            ended=self._ended,
                            others=others,
                        ),
                        others=others,
                        now=now,
                        silence=silence,
                    )
                )
        rented: Resource | None = None
        with self._troubles.guard("place on", RUNPOD_POOL):
            rented = self._runpod_watcher.build_resource(
                slots=tick_state.slots(RUNPOD_POOL),
                free=tick_state.free(RUNPOD_POOL),
                running=running.get(RUNPOD_POOL, ()),
                # A pod boots longer than a validation takes, costs money, and has a network that
                # cannot be shut: it is for those who have no server for validations, busy or not.
                takes_validations=not any(r.get_slots(SlotClass.VALIDATION) for r in resources),
            )
        return [*resources, rented] if rented is not None else resources

    def _expect_end(self, instance: Instance, now: datetime) -> Running:
        with self._troubles.guard("expect the end of", instance.key):
            task = self._book.find(instance)
            if task is None:
                return Running(ends_p50=now, ends_p90=now)
            began = _find_start(instance)
            lasted = (now - began).total_seconds() if began else 0.0
            left = self._history.expect(describe_task(task.spec)).get_remaining(lasted)
            return Running(
                ends_p50=now + timedelta(seconds=left.p50_seconds),
                ends_p90=now + timedelta(seconds=left.p90_seconds),
            )
        return Running(ends_p50=now, ends_p90=now)

    def _build_waiting(
        self, instances: Iterable[Instance], control: Control, now: datetime
    ) -> tuple[list[Waiting], dict[tuple[str, str], Instance]]:
        waiting, by_key = [], {}
        changed = index_changed(control.priorities)
        for instance in instances:
            requirements = self._book.get_requirements(instance)
            if requirements is None:
                continue  # its record is being written, or it is of no run of ours
            by_key[requirements.key] = instance
            waiting.append(
                Waiting(
                    key=requirements.key,
                    needs=requirements.needs,
                    priority=find_priority(*requirements.key, requirements.priority, changed),
                    since=requirements.since or instance.ready_at or now,
                    order=instance.map_index,
                    submitter=requirements.submitter,
                    avoid=requirements.avoid,
                    failed_at=requirements.failed_at,
                    backoff=requirements.backoff,
                    expected=self._history.expect(requirements.duration_key),
                )
            )
        return waiting, by_key

    def _count_usage(
        self, kind: SlotClass, held: Iterable[Instance], now: datetime
    ) -> Mapping[str, float]:
        """Return each submitter's use of one kind of slots, now and recently."""
        slots = []
        for instance in held:
            requirements = self._book.get_requirements(instance)
            if requirements is not None and requirements.needs.kind is kind:
                since = now
                with self._troubles.guard("tell since when there is", instance.key):
                    since = _find_start(instance) or now
                use = SlotUse(
                    key=(instance.key, instance.try_number),
                    submitter=requirements.submitter,
                    since=since,
                )
                slots.append(use)
        return self._use[kind].count(slots, now)

    # --- acting ----------------------------------------------------------------------------

    def _pass_on(self, tick_state: TickState) -> None:
        """
        Let tries that need no server run at once: only the operator can say so to Airflow.

        What a run has to run is on record before it waits. Without a record the submission was
        accepted before, or it is none that the run may work on, or somebody has removed it. And a
        try may come after the last attempt that there may be.
        """
        for instance in tick_state.waiting:
            task, is_over = self._book.find(instance), False
            if task is None:
                # A training without a record is let through as well: it says so.
                is_over = self._book.is_read(instance)
            elif instance.try_number > 1:
                with self._troubles.guard("tell whether there is another try of", instance.key):
                    is_over = bool(
                        find_settled(
                            task,
                            run_id=instance.run_id,
                            attempt=instance.try_number,
                            max_tries=instance.max_tries,
                        )
                    )
            if is_over:
                tick_state.finish(instance)

    def _describe(
        self, instance: Instance, placement: Placement, resource: Resource, now: datetime
    ) -> AttemptPlacement:
        is_training = instance.task_id == TRAINING
        kind = SlotClass.TRAINING if is_training else SlotClass.VALIDATION
        return AttemptPlacement(
            server=resource.name,
            platform=resource.platform,
            is_prestaged=False,
            was_on_deck=instance.is_prestaged,
            gpus=resource.get_gpus(kind),
            gpu_shares=resource.gpu_shares,
            gpu_price_per_hour=resource.gpu_price_per_hour,
            reason=placement.reason,
            at=now,
            estimate=self.estimates.get(placement.key),
            try_number=instance.try_number,
            max_tries=instance.max_tries,
        )

    def _prestage(
        self,
        locked: LockedPools,
        decided: Plan,
        by_key: Mapping[tuple[str, str], Instance],
        resources: Sequence[Resource],
        tick_state: TickState,
        now: datetime,
    ) -> None:
        """Let the next trainings in order run ahead, so that a freed slot finds them ready."""
        placed = {placement.key for placement in decided.placements}
        prestaged = tick_state.count_prestaged() - sum(
            by_key[key].pool == PRESTAGED_POOL for key in placed
        )
        servers = [
            r for r in resources if r.platform is Platform.ON_PREM and r.is_alive and r.slots > 0
        ]
        fitting: dict[Needs, bool] = {}
        room = min(sum(r.slots for r in servers), self._settings.deck_size) - prestaged
        room = min(room, tick_state.free(PRESTAGED_POOL))
        for wait in decided.waits:
            if room <= 0:
                return
            instance = by_key[wait.key]
            if instance.pool == PRESTAGED_POOL or instance.task_id != TRAINING:
                continue
            requirements = self._book.get_requirements(instance)
            assert requirements is not None  # noqa: S101 - it was planned by them
            needs = requirements.needs
            if needs not in fitting:
                fitting[needs] = any(find_unfit(needs, server) is None for server in servers)
            if not fitting[needs]:
                continue
            note = AttemptPlacement(
                is_prestaged=True,
                at=now,
                try_number=instance.try_number,
                max_tries=instance.max_tries,
            )
            room -= self._place(locked, instance, PRESTAGED_POOL, note)

    def _suspend(
        self, locked: LockedPools, decided: Plan, by_key: Mapping[tuple[str, str], Instance]
    ) -> None:
        """Take runs from the scheduler's hands that nothing will happen to for a while."""
        order = dict.fromkeys(by_key[wait.key].dag_run_pk for wait in decided.waits)
        suspended = {instance.dag_run_pk for instance in by_key.values() if instance.is_suspended}
        # Those next in order stay: they are about to be placed, which would resume them again.
        later = [run for run in order if run not in suspended][self._settings.warm_runs :]
        if later:
            locked.suspend(later)

    def _build_order(self, instance: Instance, placement: AttemptPlacement) -> StartOrder:
        requirements = self._book.get_requirements(instance)
        assert requirements is not None  # noqa: S101 - it was planned by them
        return StartOrder(
            submission_id=requirements.key[0],
            task_id=requirements.key[1],
            run_id=instance.run_id,
            attempt=instance.try_number,
            server=placement.server or "",
            gpus=placement.gpus or 0,
            placement=placement,
            platform=placement.platform or Platform.ON_PREM,
        )

    def _start(self, instance: Instance, placement: AttemptPlacement) -> None:
        # What was decided is in Airflow's database: if this fails the next look starts it.
        with self._troubles.guard("start", instance.key):
            order = self._build_order(instance, placement)
            self._starter.start(order)
            self._started.add((instance.key, instance.try_number))
            log.info(
                "%s/%s was prestaged and goes to %s",
                order.submission_id,
                order.task_id,
                order.server,
            )

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
                placement = AttemptPlacement.load(note)
                if placement.at is None or now - placement.at < RECOVER_AFTER:
                    continue
                task = self._book.read(instance)
                if task is None or _is_begun(task, instance):
                    self._started.add(mark)
                    continue
                self._start(instance, placement)


def _find_fence(task: Task, instance: Instance) -> int:
    """Return the least fence that an instance's attempt can have: of this try, or of the next."""
    is_claimed = task.newest.number == instance.try_number
    return task.fence + (not is_claimed)


def _find_start(instance: Instance) -> datetime | None:
    """
    Return since when an instance has its place; ``None`` if it has none.

    :raises RecordUnreadable: If what was decided of it makes no sense.
    """
    return AttemptPlacement.load(instance.placement).at if instance.placement else None


def _is_begun(task: Task, instance: Instance) -> bool:
    """Tell whether an agent has answered to this try of a task, or it is to have none."""
    if 0 < task.newest.number < instance.try_number:
        return False  # it shows how the try before ended
    return task.newest.phase is not None or task.is_ended
