"""Airflow's task instances and pools in memory, as the dispatcher's placement sees them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from touchstone.airflow_db.pools import Instance, PoolFacts, PoolsBusy
from touchstone.airflow_db.rows import TRAINING
from touchstone.core.pools import FINISH_POOL, PRESTAGED_POOL, QUEUE_POOL, UNLIMITED
from touchstone_agent.protocol.errors import PermanentError

Key = tuple[str, str, int]

RETRIES = 20
"""As the DAG gives its trainings."""

SEEN_STATES = frozenset(
    {"scheduled", "queued", "running", "deferred", "up_for_retry", "up_for_reschedule"}
)


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A row of the Pools page."""

    slots: int
    include_deferred: bool = True


class FakeAirflow:
    """
    Task instances, pools, and the one lock that the scheduler and all dispatchers take.

    What a dispatcher does under the lock becomes visible when it lets go, and not at all if it
    dies before. ``tests/integration/airflow`` runs the same suite against this and the databases.

    :param clock: The time, UTC.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self.pools: dict[str, Pool] = {
            QUEUE_POOL: Pool(slots=0),
            PRESTAGED_POOL: Pool(slots=UNLIMITED),
            FINISH_POOL: Pool(slots=UNLIMITED),
        }
        self.instances: dict[Key, Instance] = {}
        self.foreign: Counter[str] = Counter()
        """Deferred task instances of other DAGs, by pool: the dispatcher reads none of them."""
        self.is_locked = False
        self.before_lock: Callable[[], None] = lambda: None
        self._ids = 0
        self._runs: dict[str, int] = {}

    # --- what the dispatcher uses ----------------------------------------------------------

    def read_instances(self) -> list[Instance]:
        """Return the task instances that wait for a server, or hold or held one and go on."""
        return [item for item in self.instances.values() if item.state in SEEN_STATES]

    @contextmanager
    def lock_pools(self) -> Iterator[FakeLockedPools]:
        """Hold the pools until the block ends."""
        self.before_lock()
        if self.is_locked:
            raise PoolsBusy("Airflow's pools are locked")
        self.is_locked = True
        try:
            locked = FakeLockedPools(self)
            yield locked
            self.instances.update(locked.changes)
        finally:
            self.is_locked = False

    def read_pools(self) -> dict[str, PoolFacts]:
        """Return every pool, and what it holds."""
        return {name: self._count(name, pool) for name, pool in self.pools.items()}

    def _count(self, name: str, pool: Pool) -> PoolFacts:
        held = [item.state for item in self.instances.values() if item.pool == name]
        held += ["deferred"] * self.foreign[name]
        counts = {
            state: held.count(state) for state in ("running", "queued", "deferred", "scheduled")
        }
        total = float("inf") if pool.slots == UNLIMITED else pool.slots
        used = counts["running"] + counts["queued"]
        if pool.include_deferred:
            used += counts["deferred"]
        return PoolFacts(
            slots=pool.slots, open=total - used, include_deferred=pool.include_deferred, **counts
        )

    # --- what Airflow does -----------------------------------------------------------------

    def add(self, run_id: str, task_id: str = TRAINING, map_index: int = -1) -> Key:
        """Schedule a new task instance: it becomes pending."""
        key = (run_id, task_id, map_index)
        self._ids += 1
        self.instances[key] = Instance(
            id=self._ids,
            dag_run_pk=self._runs.setdefault(run_id, len(self._runs) + 1),
            run_id=run_id,
            task_id=task_id,
            map_index=map_index,
            try_number=1,
            state="scheduled",
            pool=QUEUE_POOL,
            is_resuming=False,
            ready_at=self._clock(),
            placement=None,
            max_tries=RETRIES,
        )
        return key

    def change(self, key: Key, **fields: Any) -> None:
        """Do anything to a task instance, as an admin, a worker or a trigger does."""
        self.instances[key] = replace(self.instances[key], **fields)

    def run_scheduler(self) -> list[Key]:
        """Queue what is scheduled in pools that have room, as the scheduler does; oldest first."""
        if self.is_locked:
            raise AssertionError("a scheduler never waits for the lock: it comes again")
        queued = []
        for key, instance in self.instances.items():
            pool = self.pools.get(instance.pool)
            if instance.state != "scheduled" or pool is None:
                continue
            if self._count(instance.pool, pool).open >= 1:
                self.change(key, state="queued")
                queued.append(key)
        return queued

    def begin(self, key: Key) -> Mapping[str, Any] | None:
        """Let a worker take a queued task instance; return the placement that it finds."""
        assert self.instances[key].state == "queued", self.instances[key]
        self.change(key, state="running")
        return self.instances[key].placement

    def defer(self, key: Key) -> None:
        """Let a running task instance wait for its trigger."""
        assert self.instances[key].state == "running", self.instances[key]
        self.change(key, state="deferred")

    def end(self, key: Key, state: str = "success") -> None:
        """End a task instance."""
        self.change(key, state=state, is_resuming=False)

    def resume(self, key: Key) -> None:
        """Let a trigger's event send a deferred task instance back to a worker."""
        assert self.instances[key].state == "deferred", self.instances[key]
        self.change(key, state="scheduled", is_resuming=True)

    def fail(self, key: Key) -> None:
        """Let a try fail that has retries left."""
        self._ids += 1
        self.change(key, id=self._ids, state="up_for_retry", is_resuming=False)

    def retry(self, key: Key) -> None:
        """Schedule the next try, in whatever pool the last one was."""
        instance = self.instances[key]
        assert instance.state == "up_for_retry", instance
        self.change(key, state="scheduled", try_number=instance.try_number + 1)

    def clear(self, key: Key) -> None:
        """Do as a user who clears a task instance, up to where it waits again."""
        instance = self.instances[key]
        self._ids += 1
        self.change(
            key,
            id=self._ids,
            state="scheduled",
            pool=QUEUE_POOL,
            is_resuming=False,
            try_number=instance.try_number + 1,
            max_tries=instance.try_number + RETRIES,
        )

    def create_pool(self, name: str, slots: int, description: str) -> bool:
        """Create a pool; return whether it was missing."""
        if name in self.pools:
            return False
        self.pools[name] = Pool(slots=slots)
        return True

    def exchange_slots(self, name: str, slots: int, *, expected: int) -> bool:
        if name not in self.pools or self.pools[name].slots != expected:
            return False
        self.set_slots(name, slots)
        return True

    def set_slots(self, name: str, slots: int) -> int:
        """Change a pool's slots; return what it had."""
        if name not in self.pools:
            raise PermanentError(f"there is no pool {name!r}")
        old = self.pools[name].slots
        self.pools[name] = Pool(slots=slots)
        return old

    def set_include_deferred(self, name: str, include_deferred: bool) -> None:
        """Do as an admin on the Pools page."""
        self.pools[name] = replace(self.pools[name], include_deferred=include_deferred)

    def delete_pool(self, name: str) -> None:
        """Do as an admin on the Pools page."""
        del self.pools[name]


class FakeLockedPools:
    """The pools and the changes of one holder of the lock."""

    def __init__(self, airflow: FakeAirflow) -> None:
        self._airflow = airflow
        self.pools = airflow.read_pools()
        self.changes: dict[Key, Instance] = {}

    def move(self, instance: Instance, pool: str) -> bool:
        """Put an instance into another pool, if it still is as it was read."""
        now = self._find(instance)
        if now is None:
            return False
        self.changes[instance.key] = replace(now, pool=pool)
        return True

    def place(self, instance: Instance, pool: str, placement: Mapping[str, Any]) -> bool:
        """Put an instance into a pool, with its placement, if it still is as it was read."""
        now = self._find(instance)
        if now is None:
            return False
        note = json.loads(json.dumps(placement))
        for key, other in self._airflow.instances.items():
            if other.dag_run_pk == now.dag_run_pk and other.is_suspended:
                self.changes[key] = replace(self.changes.get(key, other), is_suspended=False)
        self.changes[instance.key] = replace(now, pool=pool, placement=note, is_suspended=False)
        return True

    def suspend(self, run_pks: Sequence[int]) -> int:
        """Let runs wait that have nothing but waiting trainings."""
        suspended = 0
        for run_pk in run_pks:
            present = {**self._airflow.instances, **self.changes}
            of_run = [item for item in present.values() if item.dag_run_pk == run_pk]
            if all(i.pool == QUEUE_POOL and i.state == "scheduled" for i in of_run):
                self.changes |= {i.key: replace(i, is_suspended=True) for i in of_run}
                suspended += 1
        return suspended

    def _find(self, read: Instance) -> Instance | None:
        now = self.changes.get(read.key) or self._airflow.instances.get(read.key)
        same = now is not None and (
            (now.id, now.state, now.pool, now.try_number)
            == (read.id, read.state, read.pool, read.try_number)
        )
        return now if same else None
