"""Airflow's pools in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from touchstone_agent.protocol.errors import PermanentError


@dataclass(frozen=True, kw_only=True)
class FakePool:
    """A pool, and what it holds."""

    slots: int
    running: int = 0
    queued: int = 0
    deferred: int = 0
    scheduled: int = 0
    include_deferred: bool = True
    description: str = ""


@dataclass
class FakePools:
    """Remembers every change, in order."""

    pools: dict[str, FakePool] = field(default_factory=dict)
    changes: list[tuple[str, int]] = field(default_factory=list)
    dies_at: int | None = None

    def read_pools(self) -> dict[str, FakePool]:
        return dict(self.pools)

    def create_pool(self, name: str, slots: int, description: str) -> bool:
        if name in self.pools:
            return False
        self.pools[name] = FakePool(slots=slots, description=description)
        return True

    def remove_pool(self, name: str) -> bool:
        return self.pools.pop(name, None) is not None

    def set_slots(self, name: str, slots: int) -> int:
        if self.dies_at is not None and len(self.changes) >= self.dies_at:
            raise ConnectionError("the process was killed")
        if name not in self.pools:
            raise PermanentError(f"there is no pool {name!r}")
        old = self.pools[name]
        self.pools[name] = replace(old, slots=slots)
        self.changes.append((name, slots))
        return old.slots

    def exchange_slots(self, name: str, slots: int, *, expected: int) -> bool:
        if name not in self.pools or self.pools[name].slots != expected:
            return False
        self.set_slots(name, slots)
        return True

    def edit(self, name: str, **fields: int | bool) -> None:
        """Do as an admin does on the Pools page, or as tasks do."""
        self.pools[name] = replace(self.pools.get(name, FakePool(slots=0)), **fields)

    def slots(self) -> dict[str, int]:
        return {name: pool.slots for name, pool in self.pools.items()}
