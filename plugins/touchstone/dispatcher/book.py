"""The task records behind Airflow's task instances, read once for each try."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from touchstone.core.authority import find_claimed_submission
from touchstone.core.demand import build_needs, find_avoided, find_hold
from touchstone.core.durations import Like, describe_task
from touchstone.core.eligibility import Needs
from touchstone.core.fairness import Hold
from touchstone.dispatcher.metadata.pools import Instance
from touchstone.dispatcher.metadata.rows import TRAINING, VALIDATION
from touchstone.hooks.records import Record, RecordStore
from touchstone_agent.protocol.messages import SlotClass

log = logging.getLogger(__name__)

Key = tuple[str, str, int]


@dataclass(frozen=True, kw_only=True)
class Demand:
    """
    What placement has to know of a task, for one try of it.

    :param key: Submission id and task id.
    :param like: What past durations it is compared with.
    :param since: When it began to wait.
    :param failed_at: When its last attempt ended; ``None`` before it had one.
    :param hold: Until when, and why, no pod is rented for it again.
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
    """

    def __init__(
        self,
        records: RecordStore,
        read_named: Callable[[Iterable[str]], Mapping[str, object]] = lambda _: {},
    ) -> None:
        self._records = records
        self._read_named = read_named
        self._tasks: dict[Key, Record] = {}
        self._demands: dict[Key, Demand] = {}
        self._needs: dict[Needs, Needs] = {}
        self._told: set[tuple[Key, int]] = set()

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
        self._told = {mark for mark in self._told if mark[0] in present}
        self._forget_needs()
        missing = {key[0] for key, instance in present.items() if not self._is_known(instance)}
        if not missing:
            return
        named = self._read_named(missing)
        claimed = {find_claimed_submission(run_id, named.get(run_id)) for run_id in missing}
        for submission_id in claimed - {None}:
            for record in self._records.list_tasks(str(submission_id)):
                self.note(record)

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
        try:
            needs = build_needs(record)
        except (KeyError, TypeError, ValueError) as error:
            # One record that makes no sense must not keep all others from being placed.
            self._tell_of_odd(instance, record, error)
            return None
        config = record["config"]
        began = record.get("queued_at") or record["created_at"]
        demand = Demand(
            key=(record["submission_id"], record["task_id"]),
            try_number=instance.try_number,
            # One object for equal ones: planning tells them apart by identity first.
            needs=self._needs.setdefault(needs, needs),
            priority=int(config.get("priority") or 0),
            submitter=str(config.get("submitted_by") or "unknown"),
            avoid=find_avoided(record),
            like=describe_task(record),
            since=datetime.fromisoformat(began),
            failed_at=datetime.fromisoformat(ended) if (ended := record.get("ended_at")) else None,
            hold=find_hold(record),
        )
        self._demands[instance.key] = demand
        return demand

    def _tell_of_odd(self, instance: Instance, record: Record, error: Exception) -> None:
        mark = (instance.key, instance.try_number)
        if mark in self._told:
            return
        self._told.add(mark)
        name = f"{record.get('submission_id')}/{record.get('task_id')}"
        log.error("%s cannot be placed, its record makes no sense: %s", name, error)
