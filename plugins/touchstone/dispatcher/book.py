"""The task records behind Airflow's task instances, read once for each try."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from touchstone.core.authority import find_claimed_submission
from touchstone.core.demand import build_needs, find_avoided, find_hold
from touchstone.core.durations import Like, describe_task
from touchstone.core.eligibility import Needs
from touchstone.core.fairness import Hold
from touchstone.core.times import read_time
from touchstone.dispatcher.metadata.pools import Instance
from touchstone.dispatcher.metadata.rows import TRAINING, VALIDATION
from touchstone.dispatcher.troubles import Troubles
from touchstone.hooks.records import Record, RecordStore
from touchstone_agent.protocol.errors import TransientError
from touchstone_agent.protocol.messages import SlotClass

Key = tuple[str, str, int]


@dataclass(frozen=True, kw_only=True)
class Demand:
    """
    What placement has to know of a task, for one try of it.

    :param key: Submission id and task id.
    :param like: What past durations it is compared with.
    :param since: When it began to wait.
    :param failed_at: When its last attempt ended; ``None`` before it had one.
    :param hold: Until when, and why, it keeps away from where it was not taken.
    """

    key: tuple[str, str]
    try_number: int
    needs: Needs
    priority: int
    submitter: str
    avoid: frozenset[str]
    like: Like
    since: datetime | None
    failed_at: datetime | None
    hold: Hold | None = None


class TaskBook:
    """
    Finds records by task instance, and keeps what placement needs of them.

    Which submission a run stands for is only where to look: its records say which runs and
    instances they are of, and no others are placed by them.

    :param records: The records.
    :param read_named: Returns what runs name in their confs as their submission, by run id.
    :param troubles: Where records are counted that cannot be read, or make no sense.
    """

    def __init__(
        self,
        records: RecordStore,
        read_named: Callable[[Iterable[str]], Mapping[str, object]] = lambda _: {},
        troubles: Troubles | None = None,
    ) -> None:
        self._records = records
        self._read_named = read_named
        self._troubles = troubles or Troubles()
        self._failing: set[str] = set()
        self._unread_runs: frozenset[str] = frozenset()
        self._tasks: dict[Key, Record] = {}
        self._demands: dict[Key, Demand] = {}
        self._needs: dict[Needs, Needs] = {}
        self._odd: set[tuple[Key, int]] = set()

    @staticmethod
    def build_key(record: Record) -> Key:
        """Return the task instance that waits for a task: run id, Airflow's task id, index."""
        if record["kind"] == SlotClass.VALIDATION:
            return record["run_id"], VALIDATION, -1
        return record["run_id"], TRAINING, int(record["map_index"])

    def load(self, instances: Iterable[Instance]) -> None:
        """Read the records of instances that are not known yet; forget those that are gone."""
        present = {instance.key: instance for instance in instances}
        self._tasks = {key: task for key, task in self._tasks.items() if key in present}
        self._demands = {key: item for key, item in self._demands.items() if key in present}
        self._odd = {mark for mark in self._odd if mark[0] in present}
        self._forget_needs()
        missing = {key[0] for key, instance in present.items() if not self._is_known(instance)}
        named = self._read_named(missing) if missing else {}
        claims = {run: find_claimed_submission(run, named.get(run)) for run in missing}
        # Those that could not be read when tried come last: they must not stop the others.
        wanted = sorted(
            {each for each in claims.values() if each},
            key=lambda each: (each in self._failing, each),
        )
        unread, failed = [], set(self._failing)
        for number, submission_id in enumerate(wanted):
            with self._troubles.guard("read the tasks of", submission_id) as guard:
                if self._load(submission_id):
                    continue
            unread.append(submission_id)
            failed.add(submission_id)
            if isinstance(guard.error, TransientError):
                # The store is away: a round of placement must not wait for it again and again.
                unread += wanted[number + 1 :]
                break
        self._failing = failed.intersection(unread)
        self._unread_runs = frozenset(run for run, each in claims.items() if each in unread)

    def _load(self, submission_id: str) -> bool:
        """Take in a submission's tasks; tell whether all of them make sense."""
        is_whole = True
        for record in self._records.list_tasks(submission_id):
            name = f"{submission_id}/{record.get('task_id')}"
            with self._troubles.guard("read", name) as guard:
                self.note(record)
            is_whole = is_whole and not guard.is_failed
        return is_whole

    def is_read(self, instance: Instance) -> bool:
        """Tell whether an instance without a record has none, rather than one that was not read."""
        return instance.run_id not in self._unread_runs

    def _forget_needs(self) -> None:
        """Forget what no task asks for any more, also not in another try of it."""
        # By identity: comparing and hashing thousands of them costs as much as a plan.
        used = {id(demand.needs) for demand in self._demands.values()}
        for needs in [needs for needs in self._needs.values() if id(needs) not in used]:
            del self._needs[needs]

    def note(self, record: Record) -> None:
        """Take in a record that somebody else has read or written anyway."""
        self._tasks[self.build_key(record)] = record

    def _is_known(self, instance: Instance) -> bool:
        if instance.key not in self._tasks:
            return False
        demand = self._demands.get(instance.key)
        # What an earlier try ran into decides where the next one may go.
        return demand is None or demand.try_number == instance.try_number

    def find(self, instance: Instance) -> Record | None:
        """Return an instance's record as it was last read."""
        return self._tasks.get(instance.key)

    def read(self, instance: Instance) -> Record | None:
        """Return an instance's record as it is."""
        known = self._tasks.get(instance.key)
        if known is None:
            return None
        record = self._records.find_task(known["submission_id"], known["task_id"])
        if record is not None:
            self.note(record)
        return record

    def get_demand(self, instance: Instance) -> Demand | None:
        """Return what placement needs to know, or ``None`` while there is no record of it."""
        known = self._demands.get(instance.key)
        if known is not None and known.try_number == instance.try_number:
            return known
        record = self._tasks.get(instance.key)
        if record is None:
            return None
        if (instance.key, instance.try_number) in self._odd:
            return None
        # One record that makes no sense must not keep all others from being placed.
        name = f"{record.get('submission_id')}/{record.get('task_id')}"
        with self._troubles.guard("place", name):
            demand = self._demands[instance.key] = self._build_demand(instance, record)
            return demand
        self._odd.add((instance.key, instance.try_number))
        return None

    def _build_demand(self, instance: Instance, record: Record) -> Demand:
        config, needs = record["config"], build_needs(record)
        began, ended = record.get("queued_at") or record["created_at"], record.get("ended_at")
        return Demand(
            key=(record["submission_id"], record["task_id"]),
            try_number=instance.try_number,
            # One object for equal ones: planning tells them apart by identity first.
            needs=self._needs.setdefault(needs, needs),
            priority=int(config.get("priority") or 0),
            submitter=str(config.get("submitted_by") or "unknown"),
            avoid=find_avoided(record),
            like=describe_task(record),
            since=read_time(began),
            failed_at=read_time(ended) if ended else None,
            hold=find_hold(record),
        )
