"""The fleet file brought to pools and records, servers drained and attached, placements paused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from touchstone.core.answers.fleet import FleetReport, ServerTask, ServerWork
from touchstone.core.enrolment import belongs_here, find_other_environment
from touchstone.core.fleet import Fleet, ServerSpec, parse_fleet
from touchstone.core.images import Fit, read_fit
from touchstone.core.outlook import Outlook
from touchstone.core.placement_inputs import find_capability, find_kinds
from touchstone.core.pools import (
    QUEUE_POOL,
    RUNPOD_POOL,
    RUNPOD_WHAT,
    build_pool,
    build_validation_pool,
    describe_pool,
)
from touchstone.core.records.actions import add_action
from touchstone.core.records.notes import Letters, ReaperNote, RentalNote
from touchstone.core.records.servers import Drained, Server, ServerEntry
from touchstone.core.records.tasks import Task
from touchstone.services.control import read_control, set_paused, set_weights
from touchstone.services.fleet_status import (
    SYSTEM_POOLS,
    PoolFacts,
    Row,
    build_odd_row,
    build_row,
    choose_first_slots,
    compare,
    compare_system,
    count,
    count_held,
    find_refusal,
    list_rental_warnings,
    list_warnings,
    show_pool,
    show_rental,
    tell_both,
    tell_odd,
    tell_slots,
)
from touchstone.services.troubles import Troubles
from touchstone.settings import Settings
from touchstone.stores.records import AnyNote, RecordStore
from touchstone.stores.tables import RecordNotFound
from touchstone_agent.protocol.errors import ConfigurationError
from touchstone_agent.protocol.messages import SlotClass

__all__ = [
    "FleetKeeper",
    "PoolFacts",
    "Pools",
    "SlotsChanged",
    "UnknownServer",
    "find_fleet_file",
    "get_airflow_pools",
    "load_fleet",
    "read_control",
    "set_paused",
]

_CHECKOUT = Path(__file__).resolve().parents[3]
_FROM_FILE = ("declared",)
"""What applying the fleet file writes anew, whatever stood there."""
_SHOWN_ACTIONS = 20

MAX_SLOTS = 1000
"""More trainings at a time than any one machine runs."""
MAX_WORK = 100
"""So many tasks of a server are shown."""
_LONGEST_SECONDS = 366 * 86_400.0
_FIELDS = {SlotClass.TRAINING: "slots", SlotClass.VALIDATION: "validation_slots"}


class Pools(Protocol):
    """Airflow's pools, as this module needs them."""

    def read_pools(self) -> Mapping[str, PoolFacts]:
        """Return all pools by name."""
        ...

    def create_pool(self, name: str, slots: int, description: str) -> bool:
        """Create a pool; return whether it was missing."""
        ...

    def remove_pool(self, name: str) -> bool:
        """Remove a pool that nothing is in; return whether it was there."""
        ...

    def set_slots(self, name: str, slots: int) -> int:
        """Change a pool's slots; return what it had."""
        ...

    def exchange_slots(self, name: str, slots: int, *, expected: int) -> bool:
        """Change a pool's slots if it has so many; return whether it had."""
        ...


class UnknownServer(RecordNotFound):
    """No server of that name is enrolled."""


class SlotsChanged(ConfigurationError):
    """Somebody else has changed the slots since they were looked at."""


class FleetKeeper:
    """
    Brings the fleet file to pools and records, and takes servers out and back in.

    Pools belong to the admins: missing ones are created, existing ones are compared and named,
    and only draining and attaching, which an admin asks for by name, change slots.

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
        return survey.report.model_copy(update={"is_applied": True})

    def _survey(self, fleet: Fleet) -> _Survey:
        enrolled = {
            entry.name: entry
            for entry in self._records.list_servers()
            if belongs_here(entry, self._env)
        }
        pools = self._pools.read_pools()
        ours = {n: spec for n, spec in fleet.servers.items() if spec.env in {None, self._env}}
        refusals: dict[str, str] = {}
        wanted = dict(SYSTEM_POOLS)
        differences = list(compare_system(pools, is_missing_told=False))
        declared: list[str] = []
        warnings: list[str] = []
        for name in (n for n in ours if n in enrolled):
            spec = ours[name]
            with self._troubles.guard("compare with the fleet file", name) as guard:
                server = enrolled[name].read(renewed=_FROM_FILE)
                cuda = spec.capabilities.cuda
                refusal = find_refusal(f"servers.{name}.slots", name, spec.slots, server, cuda)
                if refusal:
                    refusals[name] = refusal
                    continue
                said = spec.build_declared()
                # How many it takes is only known once its agent has spoken.
                if spec.slots is not None or server.inventory:
                    wanted |= _build_pools(name, spec, server)
                differences += compare(name, said, server, pools, is_missing_told=False)
                if server.declared != said:
                    declared.append(name)
                has = find_capability(server.change(declared=said))
                warnings += list_warnings(
                    name, find_kinds(server), has, read_fit(server), self._settings
                )
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
            warnings += list_rental_warnings(self._settings, _list_fits(enrolled.values()))
        wanted[RUNPOD_POOL] = (fleet.runpod.slots, RUNPOD_WHAT)
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

        def decide(server: Server) -> Server | None:
            if server.declared == declared:
                return None
            return self._note(server, by, "fleet apply").change(declared=declared)

        self._records.change_server(name, decide, renewed=_FROM_FILE)

    # --- drain and attach ------------------------------------------------------------------

    def drain_server(self, name: str, *, by: str) -> Row:
        """
        Let nothing new start on a server; running attempts go on to their end.

        Its slots are remembered before they are taken away, so that a death in between loses
        nothing, and a second drain does not remember the zeros of the first.

        :param name: The server.
        :param by: Who asks.
        :return: The stored slots, and how much still runs.
        :raises UnknownServer: If it is not enrolled.
        :raises ConfigurationError: If it has no pools to drain.
        """
        facts = self._get_pools(name, self._get_server(name))
        now = self._clock()

        def decide(server: Server) -> Server | None:
            before = server.drained or Drained()
            kept = {kind: pool.slots or _get_drained(before, kind) for kind, pool in facts.items()}
            if server.drained and all(_get_drained(before, k) == kept[k] for k in kept):
                return None
            return self._note(server, by, f"drain: had {tell_both(kept)}").change(
                drained=Drained(
                    slots=kept[SlotClass.TRAINING],
                    validation_slots=kept[SlotClass.VALIDATION],
                    by=by,
                    at=now,
                )
            )

        drained = self._records.change_server(name, decide).drained
        for kind, pool in facts.items():
            if pool.slots != 0:
                self._pools.set_slots(_get_pool_name(name, kind), 0)
        return {
            "server": name,
            "drained": drained.dump() if drained else None,
            "in_use": count_held(facts[SlotClass.TRAINING]),
            "validation_in_use": count_held(facts[SlotClass.VALIDATION]),
        }

    def attach_server(self, name: str, *, slots: int | None = None, by: str) -> Row:
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
        server = self._get_server(name)
        other = find_other_environment(server, self._env)
        if other is not None:
            raise ConfigurationError(other)
        if not belongs_here(server, self._env):
            raise ConfigurationError(
                f"{name} is not this environment's any more: `touchstone agent enroll {name}`"
            )
        facts = self._get_pools(name, server)
        if server.holds and slots is None and not server.drained:
            return self._release_server(name, facts, by)
        target = _choose_slots(name, slots, server, facts)
        cuda = server.declared.cuda if server.declared else None
        refusal = find_refusal("slots", name, target[SlotClass.TRAINING], server, cuda)
        if refusal:
            hint = "" if slots is not None else "; give --slots"
            raise ConfigurationError(f"{refusal}{hint}")
        for kind, number in target.items():
            if facts[kind].slots != number:
                self._pools.set_slots(_get_pool_name(name, kind), number)

        def decide(found: Server) -> Server | None:
            is_new = any(facts[kind].slots != number for kind, number in target.items())
            if not found.drained and not is_new and not found.holds:
                return None
            action = f"attach: {tell_both(target)}"
            return self._note(found, by, action).change(drained=None, holds={})

        self._records.change_server(name, decide)
        return {"server": name, **_name_slots(target)}

    def set_slots(
        self,
        name: str,
        *,
        slots: int,
        validation_slots: int | None = None,
        seen: tuple[int, int] | None = None,
        by: str,
    ) -> Row:
        """
        Give a server another number of slots; what runs there goes on.

        :param name: The server.
        :param slots: Trainings at a time from now on.
        :param validation_slots: Validations at a time; ``None`` for as many as now.
        :param seen: The slots of both kinds that the caller has seen; ``None`` for whatever there
            are.
        :param by: Who asks.
        :return: The slots it has now.
        :raises UnknownServer: If it is not enrolled.
        :raises SlotsChanged: If it has others than were seen.
        :raises ConfigurationError: If it may not have so many, or is drained.
        """
        server = self._get_server(name)
        if not belongs_here(server, self._env):
            raise ConfigurationError(f"slots: {name} is not this environment's")
        facts = self._get_pools(name, server)
        has = {kind: facts[kind].slots for kind in SlotClass}
        target = {
            SlotClass.TRAINING: slots,
            SlotClass.VALIDATION: has[SlotClass.VALIDATION]
            if validation_slots is None
            else validation_slots,
        }
        if server.drained:
            raise ConfigurationError(f"slots: {name} is drained; attach it, with as many as wanted")
        if seen is not None and seen != (has[SlotClass.TRAINING], has[SlotClass.VALIDATION]):
            raise SlotsChanged(f"slots: {name} has {tell_both(has)} by now; look again")
        cuda = server.declared.cuda if server.declared else None
        refusal = find_refusal("slots", name, slots, server, cuda)
        if refusal:
            raise ConfigurationError(refusal)
        for kind, field in _FIELDS.items():
            if not 0 <= target[kind] <= MAX_SLOTS:
                raise ConfigurationError(f"{field}: {target[kind]} is not in 0 to {MAX_SLOTS}")
        if has[SlotClass.TRAINING] and not slots:
            raise ConfigurationError(
                f"slots: 0 takes {name} out; drain it, which keeps its slots in mind"
            )
        if slots and SlotClass.TRAINING not in find_kinds(server):
            _check_without_trainings(name, slots, target)
        if target == has:
            return {"server": name, **_name_slots(target)}

        action = f"slots: {tell_both(target)}; had {tell_both(has)}"
        # On record before it is done; of two at once only one finds what it expects.
        self._records.change_server(name, lambda found: self._note(found, by, action))
        for kind, field in _FIELDS.items():
            pool = _get_pool_name(name, kind)
            is_wanted = target[kind] != has[kind]
            if is_wanted and not self._pools.exchange_slots(pool, target[kind], expected=has[kind]):
                raise SlotsChanged(
                    f"{field}: somebody has changed the pool {pool} at this moment; look again"
                )
        return {"server": name, **_name_slots(target)}

    def foresee(self, name: str, outlook: Outlook | None) -> ServerWork:
        """
        Return what runs on a server, until about when, and what a drain or an attach would do.

        :param name: The server.
        :param outlook: What a dispatcher has published last; ``None`` for nothing.
        :raises UnknownServer: If it is not enrolled.
        """
        server, now = self._get_server(name), self._clock()
        pools = self._pools.read_pools()
        training, validation = pools.get(name), pools.get(build_validation_pool(name))
        places = self._records.find_servers_at_work()
        keys = sorted(key for key, place in places.items() if place == name)
        found = self._records.find_tasks(keys[:MAX_WORK])
        tasks = [found[key].task for key in keys if key in found]
        resources = outlook.resources if outlook and not outlook.is_stale(now) else ()
        running = next((each.running for each in resources if each.name == name), ())
        drained = server.drained
        return ServerWork(
            server=name,
            slots=training.slots if training else None,
            validation_slots=validation.slots if validation else None,
            in_use=count_held(training) if training else 0,
            validation_in_use=count_held(validation) if validation else 0,
            is_drained=drained is not None,
            drained_by=drained.by if drained else None,
            kept_slots=drained.slots if drained else None,
            kept_validation_slots=drained.validation_slots if drained else None,
            tasks=tuple(_show_work(task, now) for task in tasks if task is not None),
            left_out=len(keys) - sum(task is not None for task in tasks),
            ends_p50=max((each.ends_p50 for each in running), default=None),
            ends_p90=max((each.ends_p90 for each in running), default=None),
        )

    def _release_server(self, name: str, facts: Mapping[SlotClass, PoolFacts], by: str) -> Row:
        """Let a server be asked again at once that was left alone for what it had refused."""

        def decide(found: Server) -> Server | None:
            if not found.holds:
                return None
            return self._note(found, by, "attach: asked again for what it refused").change(holds={})

        self._records.change_server(name, decide)
        return {"server": name, **_name_slots({kind: facts[kind].slots for kind in facts})}

    def _get_server(self, name: str) -> Server:
        known = {entry.name: entry for entry in self._records.list_servers()}
        if name not in known:
            names = ", ".join(known) or "none"
            raise UnknownServer(f"there is no server {name!r}; enrolled are: {names}")
        return known[name].read()

    def _get_pools(self, name: str, server: Server) -> dict[SlotClass, PoolFacts]:
        found = self._pools.read_pools()
        wanted = {kind: _get_pool_name(name, kind) for kind in SlotClass}
        for pool in wanted.values():
            if pool not in found:
                way_out = (
                    "`touchstone fleet apply` makes it"
                    if server.declared
                    else "name the server in the fleet file, then `touchstone fleet apply`"
                )
                raise ConfigurationError(f"{name} has no pool {pool}; {way_out}")
        return {kind: found[pool] for kind, pool in wanted.items()}

    def _note(self, server: Server, by: str, action: str) -> Server:
        actions = add_action(server.actions, at=self._clock(), by=by, action=action)
        return server.change(actions=actions)

    # --- how it is -------------------------------------------------------------------------

    def build_status(self) -> Row:
        """Return the present fleet: plain JSON values, a row per enrolled server."""
        pools, now = self._pools.read_pools(), self._clock()
        control = read_control(self._records)
        waiting, runpod = pools.get(QUEUE_POOL), pools.get(RUNPOD_POOL)
        entries = self._records.list_servers()
        differences = list(compare_system(pools, is_missing_told=True))
        letters = self._find_note(Letters, differences)
        rental = self._find_note(RentalNote, differences)
        reaper = self._find_note(ReaperNote, differences)
        return {
            "env": self._env,
            "placements": {
                "paused": control.is_paused,
                "by": control.by,
                "at": control.at.isoformat() if control.at else None,
                "reason": control.reason,
            },
            "actions": [action.dump() for action in control.actions[-_SHOWN_ACTIONS:]],
            "waiting": waiting.scheduled if waiting else 0,
            "servers": [self._build_row(entry, pools, now) for entry in entries],
            "dead_letters": dict(letters.queues),
            "runpod": {**show_pool(runpod), **show_rental(rental, reaper)},
            "differences": [*differences],
            "warnings": (
                list(list_rental_warnings(self._settings, _list_fits(entries)))
                if runpod and runpod.slots
                else []
            ),
        }

    def _build_row(self, entry: ServerEntry, pools: Mapping[str, PoolFacts], now: datetime) -> Row:
        with self._troubles.guard("show", entry.name) as guard:
            return build_row(entry.read(), pools, now, self._settings)
        return build_odd_row(entry.name, tell_odd(entry.name, guard.error))

    def _find_note(self, kind: type[AnyNote], differences: list[str]) -> AnyNote:
        """Return a note; its defaults, with a warning, if it cannot be read."""
        with self._troubles.guard("show", kind.NAME) as guard:
            return self._records.find_note(kind)
        differences.append(f"{kind.NAME}: the note makes no sense: {guard.error}")
        return kind()


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
    from touchstone.airflow_db import pools

    return pools


# --- small parts -----------------------------------------------------------------------------


def _build_pools(name: str, spec: ServerSpec, server: Server) -> dict[str, tuple[int, str]]:
    # A pool that was deleted while its server is drained must not bring it back.
    said = spec.build_declared()
    slots = {
        kind: 0 if server.drained else choose_first_slots(kind, said, server) for kind in SlotClass
    }
    return {
        build_pool(name, is_validation=is_validation): (
            slots[kind],
            describe_pool(name, is_validation=is_validation, what=spec.description or ""),
        )
        for kind, is_validation in ((SlotClass.TRAINING, False), (SlotClass.VALIDATION, True))
    }


def _list_fits(entries: Iterable[ServerEntry]) -> Iterator[Fit]:
    return (read_fit(entry.server) for entry in entries if entry.server is not None)


def _get_pool_name(name: str, kind: SlotClass) -> str:
    return build_pool(name, is_validation=kind is SlotClass.VALIDATION)


def _get_drained(drained: Drained, kind: SlotClass) -> int:
    return drained.slots if kind is SlotClass.TRAINING else drained.validation_slots


def _show_work(task: Task, now: datetime) -> ServerTask:
    newest = task.newest
    ends = None
    if newest.eta_seconds is not None and not task.is_ended:
        # Years from now are no estimate, and no date.
        seconds = min(max(0.0, float(newest.eta_seconds)), _LONGEST_SECONDS)
        ends = (newest.last_event_at or now) + timedelta(seconds=seconds)
    return ServerTask(
        submission_id=task.submission_id,
        task_id=task.task_id,
        submitted_by=task.spec.submitted_by,
        status=task.status.value,
        percent=float(newest.percent),
        running_at=newest.running_at,
        ends_at=ends,
    )


def _name_slots(slots: Mapping[SlotClass, int]) -> dict[str, int]:
    return {
        "slots": slots[SlotClass.TRAINING],
        "validation_slots": slots[SlotClass.VALIDATION],
    }


def _choose_slots(
    name: str, slots: int | None, server: Server, facts: Mapping[SlotClass, PoolFacts]
) -> dict[SlotClass, int]:
    if slots is not None and slots < 1:
        raise ConfigurationError(
            f"slots: {slots} is not a number of slots to attach with; "
            f"`touchstone fleet drain {name}` takes them away"
        )
    drained = server.drained or Drained()
    target = {kind: pool.slots or _get_drained(drained, kind) for kind, pool in facts.items()}
    if SlotClass.TRAINING not in find_kinds(server):
        _check_without_trainings(name, slots, target)
        return target
    if slots is not None:
        return {**target, SlotClass.TRAINING: slots}
    if not server.drained and target[SlotClass.TRAINING]:
        has = count(target[SlotClass.TRAINING], "slot")
        raise ConfigurationError(
            f"slots: {name} is not drained and has {has}; give --slots for another number"
        )
    if not target[SlotClass.TRAINING]:
        said = server.declared.slots if server.declared else None
        hint = f" (the fleet file says {said})" if said else ""
        raise ConfigurationError(
            f"slots: nothing says how many {name} had before; give --slots N{hint}"
        )
    return target


def _check_without_trainings(name: str, slots: int | None, target: Mapping[SlotClass, int]) -> None:
    """Refuse what makes no sense for a server whose agent was set up for validations only."""
    if slots is not None:
        raise ConfigurationError(
            f"slots: {slots}, but the agent of {name} takes no trainings; its own settings say so"
        )
    if not target[SlotClass.VALIDATION]:
        raise ConfigurationError(
            f"slots: nothing says how many validations {name} took before; set the slots of "
            f"{build_validation_pool(name)} on Airflow's Pools page"
        )
