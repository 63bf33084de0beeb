"""The pools and task instances of one round of decisions, while they change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from touchstone.airflow_db.pools import Instance, LockedPools, PoolFacts
from touchstone.core.pools import FINISH_POOL, PRESTAGED_POOL, QUEUE_POOL, UNLIMITED
from touchstone.dispatcher.task_cache import Key

_HELD = frozenset({"queued", "running", "deferred"})
_PLENTY = 10_000
"""What an unlimited pool takes; arithmetic goes on with it."""
_RETURNING = frozenset({"up_for_retry", "up_for_reschedule"})


class TickState:
    """
    The pools and instances of one tick, while they change.

    :param locked: The pools.
    :param instances: All instances of interest.
    :param exited: Those whose container has ended, with the try that it was of.
    """

    def __init__(
        self,
        locked: LockedPools,
        instances: Iterable[Instance],
        exited: frozenset[tuple[Key, int]],
    ) -> None:
        self._locked = locked
        self._pools: Mapping[str, PoolFacts] = locked.pools
        self._gained: Counter[str] = Counter()
        self._instances = {instance.key: instance for instance in instances}
        self._exited = exited
        self._ours = Counter(
            instance.pool for instance in self._instances.values() if instance.state in _HELD
        )

    @property
    def waiting(self) -> list[Instance]:
        """Return what waits for a server."""
        return [instance for instance in self._instances.values() if instance.is_waiting]

    @property
    def held(self) -> list[Instance]:
        """Return what has a slot of a server, or was promised one and has not begun yet."""
        return [
            instance
            for instance in self._instances.values()
            if instance.pool not in {QUEUE_POOL, PRESTAGED_POOL, FINISH_POOL}
            and (instance.state in _HELD or _is_promised(instance))
            and not self._has_exited(instance)
        ]

    def _has_exited(self, instance: Instance) -> bool:
        return (instance.key, instance.try_number) in self._exited

    def find_settled(self, exited: Iterable[tuple[Key, int]]) -> set[tuple[Key, int]]:
        """Return the ends that need no more attention: all but of those still on a worker."""
        on_worker = {
            (instance.key, instance.try_number)
            for instance in self._instances.values()
            if instance.state in {"queued", "running"}
        }
        return set(exited) - on_worker

    def slots(self, pool: str) -> int:
        """Return a pool's slots; none if an admin has deleted it."""
        facts = self._pools.get(pool)
        if facts is None:
            return 0
        return facts.slots if facts.slots != UNLIMITED else _PLENTY

    def free(self, pool: str) -> int:
        """Return how many more instances a pool takes."""
        facts = self._pools.get(pool)
        if facts is None:
            return 0
        if facts.slots == UNLIMITED:
            return _PLENTY
        # Their containers hold their servers, whatever an admin has ticked for Airflow.
        uncounted = 0 if facts.include_deferred else facts.deferred
        return int(facts.open - facts.scheduled - uncounted + self._gained[pool])

    def count_others(self, pool: str) -> int:
        """Return how many slots of a pool tasks of other DAGs hold."""
        facts = self._pools.get(pool)
        if facts is None:
            return 0
        return max(0, facts.running + facts.queued + facts.deferred - self._ours[pool])

    def count_prestaged(self) -> int:
        """Return how many instances are prestaged, or about to be."""
        return sum(instance.pool == PRESTAGED_POOL for instance in self._instances.values())

    def return_to_queue(self, dead: set[str]) -> None:
        """Make instances pending again that must wait again."""
        for instance in list(self._instances.values()):
            if instance.pool != QUEUE_POOL and self._must_return(instance, dead):
                is_moved = self._move(instance, QUEUE_POOL)
                self._gained[instance.pool] += is_moved and instance.state == "scheduled"

    def _must_return(self, instance: Instance, dead: set[str]) -> bool:
        if instance.state in _RETURNING:
            return True
        if instance.state != "scheduled" or instance.is_resuming:
            return False
        # Placed, but not begun: its server was drained or deleted, or has fallen silent since.
        note = instance.placement or {}
        return (
            not instance.is_placed
            or note.get("server") in dead
            or instance.pool not in self._pools
            or self.free(instance.pool) < 0
            or instance.pool == FINISH_POOL
        )

    def release(self) -> None:
        """Free the slots of what has no container any more: the ended, and what resumes."""
        if FINISH_POOL not in self._pools:
            return  # there they would be stuck; where they are, they only take longer
        for instance in list(self._instances.values()):
            is_over = instance.state == "deferred" and self._has_exited(instance)
            is_resuming = instance.state == "scheduled" and instance.is_resuming
            is_elsewhere = instance.pool not in {FINISH_POOL, PRESTAGED_POOL}
            if (is_over or is_resuming) and is_elsewhere:
                self._gained[instance.pool] += self._move(instance, FINISH_POOL)

    def finish(self, instance: Instance) -> None:
        """Let an instance run that needs no server."""
        self._move(instance, FINISH_POOL)

    def _move(self, instance: Instance, pool: str) -> bool:
        is_moved = self._locked.move(instance, pool)
        if is_moved:
            self._instances[instance.key] = replace(instance, pool=pool)
        return is_moved


def _is_promised(instance: Instance) -> bool:
    return instance.state == "scheduled" and instance.is_placed and not instance.is_resuming
