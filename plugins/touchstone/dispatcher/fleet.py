"""The fleet file brought to pools and records, servers drained and attached, placements paused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

from touchstone.core.actions import note_action
from touchstone.core.demand import find_kinds
from touchstone.core.fleet import Fleet, ServerSpec, parse_fleet
from touchstone.core.holds import HOLDS
from touchstone.core.pools import QUEUE_POOL, RUNPOD_POOL, build_validation_pool
from touchstone.dispatcher.alarms import LETTERS
from touchstone.dispatcher.control import (
    Control,
    read_control,
    set_paused,
    set_weights,
)
from touchstone.dispatcher.fleet_status import (
    SYSTEM_POOLS,
    PoolFacts,
    build_odd_row,
    build_row,
    choose_first_slots,
    compare,
    compare_system,
    count,
    count_held,
    find_capability,
    find_refusal,
    get_pool_name,
    list_rental_warnings,
    list_warnings,
    show_pool,
    show_rental,
    tell_both,
    tell_odd,
    tell_slots,
)
from touchstone.dispatcher.troubles import Troubles
from touchstone.hooks.pods.facts import REAPER, RENTAL
from touchstone.hooks.records import Record, RecordNotFound, RecordStore
from touchstone.settings import Settings
from touchstone_agent.protocol.errors import ConfigurationError
from touchstone_agent.protocol.messages import SlotClass

__all__ = [
    "Control",
    "FleetKeeper",
    "FleetReport",
    "PoolFacts",
    "Pools",
    "UnknownServer",
    "find_fleet_file",
    "get_airflow_pools",
    "load_fleet",
    "read_control",
    "set_paused",
]

_CHECKOUT = Path(__file__).resolve().parents[3]
_KEYS = ("slots", "validation_slots")
_SHOWN_ACTIONS = 20


class Pools(Protocol):
    """Airflow's pools, as this module needs them."""

    def read_pools(self) -> Mapping[str, PoolFacts]:
        """Return all pools by name."""
        ...

    def create_pool(self, name: str, slots: int, description: str) -> bool:
        """Create a pool; return whether it was missing."""
        ...

    def set_slots(self, name: str, slots: int) -> int:
        """Change a pool's slots; return what it had."""
        ...


class UnknownServer(RecordNotFound):
    """No server of that name is enrolled."""


@dataclass(frozen=True, kw_only=True)
class FleetReport:
    """
    What came, or would come, of applying a fleet file.

    :param is_applied: Whether it was done, and not only looked at.
    :param created: Pools that were missing.
    :param declared: Servers whose records did not say yet what the file says.
    :param differences: What is otherwise than the file has it, and stays so.
    :param warnings: What lies idle by the installation's settings.
    :param refused: What of the file cannot be, each with its field; those servers are left alone.
    :param not_enrolled: Servers of the file that have no record: they get no pools yet.
    :param not_in_file: Enrolled servers that the file does not name.
    :param elsewhere: Servers of the file that belong to another environment.
    """

    is_applied: bool
    created: tuple[str, ...] = ()
    declared: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    not_enrolled: tuple[str, ...] = ()
    not_in_file: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()


class FleetKeeper:
    """
    Brings the fleet file to pools and records, and takes servers out and back in.

    Pools belong to the admins: what is missing is created, what is there is compared and named,
    and only draining and attaching, which somebody asks for by name, change slots.

    :param records: The records of servers.
    :param pools: Airflow's pools.
    :param settings: The environment (servers of the file that belong to another are left alone),
        how long a server may be silent, and which images there are.
    :param clock: The time, UTC.
    :param troubles: Where servers are counted whose records make no sense.
    """

    def __init__(
        self,
        *,
        records: RecordStore,
        pools: Pools,
        settings: Settings,
        clock: Callable[[], datetime],
        troubles: Troubles | None = None,
    ) -> None:
        self._troubles = troubles or Troubles(clock)
        self._records = records
        self._pools = pools
        self._env = settings.env
        self._settings = settings
        self._clock = clock

    # --- the file --------------------------------------------------------------------------

    def check_fleet(self, fleet: Fleet) -> FleetReport:
        """Return what :meth:`apply_fleet` would do, without doing it."""
        return self._survey(fleet).report

    def apply_fleet(self, fleet: Fleet, *, by: str) -> FleetReport:
        """
        Create the pools that are missing and write to each server's record what the file says.

        Doing it twice changes nothing more; no pool that exists is touched. What is refused is
        left out, so that one wrong entry does not keep the rest of the fleet from starting.

        :param fleet: The checked file.
        :param by: Who asks, for the servers' records.
        """
        survey = self._survey(fleet)
        for name, (slots, description) in survey.missing.items():
            self._pools.create_pool(name, slots, description)
        for name in survey.report.declared:
            self._declare(name, fleet.servers[name], by)
        set_weights(self._records, weights=fleet.weights, by=by, now=self._clock())
        return replace(survey.report, is_applied=True)

    def _survey(self, fleet: Fleet) -> _Survey:
        enrolled = {str(record["server"]): record for record in self._records.list_servers()}
        pools = self._pools.read_pools()
        ours = {n: spec for n, spec in fleet.servers.items() if spec.env in {None, self._env}}
        refusals: dict[str, str] = {}
        wanted = dict(SYSTEM_POOLS)
        differences = list(compare_system(pools, is_missing_told=False))
        declared: list[str] = []
        warnings: list[str] = []
        for name in (n for n in ours if n in enrolled):
            spec, record = ours[name], enrolled[name]
            with self._troubles.guard("compare with the fleet file", name) as guard:
                refusal = find_refusal(
                    f"servers.{name}.slots", name, spec.slots, record, spec.capabilities.cuda
                )
                if refusal:
                    refusals[name] = refusal
                    continue
                said = spec.build_declared()
                # How many it takes is only known once its agent has spoken.
                if spec.slots is not None or record.get("inventory"):
                    wanted |= _build_pools(name, spec, record)
                differences += compare(name, said, record, pools, is_missing_told=False)
                if record.get("declared") != said:
                    declared.append(name)
                has = find_capability({**record, "declared": said})
                warnings += list_warnings(name, find_kinds(record), has, self._settings)
            if guard.error is not None:
                differences.append(tell_odd(name, guard.error))
        for name in sorted(set(fleet.servers) - set(ours)):
            pool = pools.get(name)
            if pool is not None and pool.slots != 0:
                differences.append(
                    f"{name}: belongs to environment {fleet.servers[name].env}, but has slots "
                    f"here; `touchstone fleet drain {name}`"
                )
        if fleet.runpod.slots:
            warnings += list_rental_warnings(self._settings)
        wanted[RUNPOD_POOL] = (fleet.runpod.slots, "Touchstone: pods at RunPod")
        runpod = pools.get(RUNPOD_POOL)
        if runpod is not None and runpod.slots != fleet.runpod.slots:
            differences.append(tell_slots(RUNPOD_POOL, runpod.slots, fleet.runpod.slots))
        missing = {name: pool for name, pool in wanted.items() if name not in pools}
        report = FleetReport(
            is_applied=False,
            created=tuple(missing),
            declared=tuple(declared),
            differences=tuple(differences),
            warnings=tuple(warnings),
            refused=tuple(refusals.values()),
            not_enrolled=tuple(sorted(set(ours) - set(enrolled))),
            not_in_file=tuple(sorted(set(enrolled) - set(fleet.servers))),
            elsewhere=tuple(sorted(set(fleet.servers) - set(ours))),
        )
        return _Survey(missing=missing, report=report)

    def _declare(self, name: str, spec: ServerSpec, by: str) -> None:
        declared = spec.build_declared()

        def decide(record: Record) -> Record | None:
            if record.get("declared") == declared:
                return None
            return {"declared": declared, **self._note(record, by, "fleet apply")}

        self._records.change_server(name, decide)

    # --- drain and attach ------------------------------------------------------------------

    def drain_server(self, name: str, *, by: str) -> Record:
        """
        Let nothing new start on a server; what runs there goes on to its end.

        Its slots are remembered before they are taken away, so that whoever dies in between
        loses nothing, and a second drain does not remember the zeros of the first.

        :param name: The server.
        :param by: Who asks.
        :return: What is remembered, and how much still runs.
        :raises UnknownServer: If it is not enrolled.
        :raises ConfigurationError: If it has no pools to drain.
        """
        facts = self._get_pools(name, self._get_server(name))
        now = self._clock().isoformat()

        def decide(record: Record) -> Record | None:
            before = record.get("drained") or dict.fromkeys(_KEYS, 0)
            kept = {key: pool.slots or before[key] for key, pool in facts.items()}
            if record.get("drained") and all(before[key] == kept[key] for key in kept):
                return None
            return {
                "drained": {**kept, "by": by, "at": now},
                **self._note(record, by, f"drain: had {tell_both(kept)}"),
            }

        record = self._records.change_server(name, decide)
        for key, pool in facts.items():
            if pool.slots != 0:
                self._pools.set_slots(get_pool_name(name, key), 0)
        return {
            "server": name,
            "drained": record["drained"],
            "in_use": count_held(facts["slots"]),
            "validation_in_use": count_held(facts["validation_slots"]),
        }

    def attach_server(self, name: str, *, slots: int | None = None, by: str) -> Record:
        """
        Give a drained server its slots back.

        Slots that an admin gave one of its pools since then are kept. A server that is not drained
        but left alone for what it has refused is asked again at once.

        :param name: The server.
        :param slots: Trainings at a time from now on; ``None`` for what it had.
        :param by: Who asks.
        :return: The slots it has now.
        :raises UnknownServer: If it is not enrolled.
        :raises ConfigurationError: If there is nothing to go back to, or it is more than the
            server has GPUs.
        """
        record = self._get_server(name)
        facts = self._get_pools(name, record)
        if record.get(HOLDS) and slots is None and not record.get("drained"):
            return self._release_server(name, facts, by)
        target = _choose_slots(name, slots, record, facts)
        cuda = (record.get("declared") or {}).get("cuda")
        refusal = find_refusal("slots", name, target["slots"], record, cuda)
        if refusal:
            hint = "" if slots is not None else "; give --slots"
            raise ConfigurationError(f"{refusal}{hint}")
        for key, number in target.items():
            if facts[key].slots != number:
                self._pools.set_slots(get_pool_name(name, key), number)

        def decide(found: Record) -> Record | None:
            is_new = any(facts[key].slots != number for key, number in target.items())
            if not found.get("drained") and not is_new and not found.get(HOLDS):
                return None
            action = f"attach: {tell_both(target)}"
            return {"drained": None, HOLDS: {}, **self._note(found, by, action)}

        self._records.change_server(name, decide)
        return {"server": name, **target}

    def _release_server(self, name: str, facts: Mapping[str, PoolFacts], by: str) -> Record:
        """Let a server be asked again at once that was left alone for what it had refused."""

        def decide(found: Record) -> Record | None:
            if not found.get(HOLDS):
                return None
            return {HOLDS: {}, **self._note(found, by, "attach: asked again for what it refused")}

        self._records.change_server(name, decide)
        return {"server": name, **{key: pool.slots for key, pool in facts.items()}}

    def _get_server(self, name: str) -> Record:
        known = {str(record["server"]): record for record in self._records.list_servers()}
        if name not in known:
            names = ", ".join(known) or "none"
            raise UnknownServer(f"there is no server {name!r}; enrolled are: {names}")
        return known[name]

    def _get_pools(self, name: str, record: Record) -> dict[str, PoolFacts]:
        found = self._pools.read_pools()
        wanted = {key: get_pool_name(name, key) for key in _KEYS}
        for pool in wanted.values():
            if pool not in found:
                way_out = (
                    "`touchstone fleet apply` makes it"
                    if record.get("declared")
                    else "name the server in the fleet file, then `touchstone fleet apply`"
                )
                raise ConfigurationError(f"{name} has no pool {pool}; {way_out}")
        return {key: found[pool] for key, pool in wanted.items()}

    def _note(self, record: Record, by: str, action: str) -> Record:
        return note_action(record, at=self._clock(), by=by, action=action)

    # --- how it is -------------------------------------------------------------------------

    def build_status(self) -> Record:
        """Return the fleet as it is now: plain JSON values, a row per enrolled server."""
        pools, now = self._pools.read_pools(), self._clock()
        control = read_control(self._records)
        waiting, runpod = pools.get(QUEUE_POOL), pools.get(RUNPOD_POOL)
        return {
            "env": self._env,
            "placements": {
                "paused": control.is_paused,
                "by": control.by,
                "at": control.at,
                "reason": control.reason,
            },
            "actions": [dict(action) for action in control.actions[-_SHOWN_ACTIONS:]],
            "waiting": waiting.scheduled if waiting else 0,
            "servers": [
                self._build_row(record, pools, now) for record in self._records.list_servers()
            ],
            "dead_letters": self._records.find_note(LETTERS).get("queues") or {},
            "runpod": show_pool(runpod)
            | show_rental(self._records.find_note(RENTAL), self._records.find_note(REAPER)),
            "differences": list(compare_system(pools, is_missing_told=True)),
            "warnings": (
                list(list_rental_warnings(self._settings)) if runpod and runpod.slots else []
            ),
        }

    def _build_row(self, record: Record, pools: Mapping[str, PoolFacts], now: datetime) -> Record:
        name = str(record["server"])
        with self._troubles.guard("show", name) as guard:
            return build_row(record, pools, now, self._settings)
        return build_odd_row(name, tell_odd(name, guard.error))


@dataclass(frozen=True, kw_only=True)
class _Survey:
    missing: Mapping[str, tuple[int, str]]
    report: FleetReport


def load_fleet(path: Path) -> Fleet:
    """
    Read and check a fleet file.

    :raises ConfigurationError: If it cannot be read, or is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"there is no fleet file {path}; write one, or set TOUCHSTONE_FLEET_FILE"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"fleet file {path} cannot be read: {error}") from error
    return parse_fleet(text)


def find_fleet_file(settings: Settings) -> Path | None:
    """Return where the fleet file is; ``None`` if none is set and the checkout has none."""
    if settings.fleet_file is not None:
        return settings.fleet_file
    default = _CHECKOUT / "include" / "fleet.toml"
    return default if default.is_file() else None


def get_airflow_pools() -> Pools:
    """Return Airflow's own pools; imports its models, which clients must not need."""
    from touchstone.dispatcher.metadata import pools

    return pools


# --- small parts -----------------------------------------------------------------------------


def _build_pools(name: str, spec: ServerSpec, record: Record) -> dict[str, tuple[int, str]]:
    # A pool that was deleted while its server is drained must not bring it back.
    is_drained = bool(record.get("drained"))
    said = spec.build_declared()
    slots = {key: 0 if is_drained else choose_first_slots(key, said, record) for key in _KEYS}
    what = spec.description or "on-prem server"
    return {
        name: (slots["slots"], f"Touchstone: trainings on {name} ({what})"),
        build_validation_pool(name): (
            slots["validation_slots"],
            f"Touchstone: validations on {name}",
        ),
    }


def _choose_slots(
    name: str, slots: int | None, record: Record, facts: Mapping[str, PoolFacts]
) -> dict[str, int]:
    if slots is not None and slots < 1:
        raise ConfigurationError(
            f"slots: {slots} is not a number of slots to attach with; "
            f"`touchstone fleet drain {name}` takes them away"
        )
    drained = record.get("drained") or {}
    target = {key: pool.slots or int(drained.get(key) or 0) for key, pool in facts.items()}
    if SlotClass.TRAINING not in find_kinds(record):
        _check_without_trainings(name, slots, target)
        return target
    if slots is not None:
        return {**target, "slots": slots}
    if not drained and target["slots"]:
        raise ConfigurationError(
            f"slots: {name} is not drained and has {count(target['slots'], 'slot')}; "
            "give --slots for another number"
        )
    if not target["slots"]:
        said = (record.get("declared") or {}).get("slots")
        hint = f" (the fleet file says {said})" if said else ""
        raise ConfigurationError(
            f"slots: nothing says how many {name} had before; give --slots N{hint}"
        )
    return target


def _check_without_trainings(name: str, slots: int | None, target: Mapping[str, int]) -> None:
    """Refuse what makes no sense for a server whose agent was set up for validations only."""
    if slots is not None:
        raise ConfigurationError(
            f"slots: {slots}, but the agent of {name} takes no trainings; its own settings say so"
        )
    if not target["validation_slots"]:
        raise ConfigurationError(
            f"slots: nothing says how many validations {name} took before; set the slots of "
            f"{build_validation_pool(name)} on Airflow's Pools page"
        )
