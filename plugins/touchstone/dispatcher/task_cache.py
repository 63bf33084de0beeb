"""The task records behind Airflow's task instances, read once for each try."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from touchstone.airflow_db.pools import Instance
from touchstone.airflow_db.rows import find_instance_key
from touchstone.core.authority import find_named_submission
from touchstone.core.durations import DurationKey, describe_task
from touchstone.core.eligibility import Needs
from touchstone.core.fairness import TaskBackoff
from touchstone.core.placement_inputs import build_needs, find_avoided, find_backoff
from touchstone.core.records.tasks import Task, TaskKey
from touchstone.services.troubles import Troubles
from touchstone.stores.records import RecordStore
from touchstone_agent.protocol.errors import TransientError

Key = tuple[str, str, int]


@dataclass(frozen=True, kw_only=True)
class TaskRequirements:
    """
    What placement has to know of a task, for one try of it.

    :param key: Submission id and task id.
    :param duration_key: What past durations it is compared with.
    :param since: When it began to wait.
    :param failed_at: When its last attempt ended; ``None`` before it had one.
    :param backoff: Until when, and why, it keeps away from where it was not taken.
    """

    key: TaskKey
    try_number: int
    needs: Needs
    priority: int
    submitter: str
    avoid: frozenset[str]
    duration_key: DurationKey
    since: datetime
    failed_at: datetime | None
    backoff: TaskBackoff | None = None


class TaskCache:
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
        self._tasks: dict[Key, Task] = {}
        self._requirements: dict[Key, TaskRequirements] = {}
        self._needs: dict[Needs, Needs] = {}
        self._odd: set[tuple[Key, int]] = set()

    def load(self, instances: Iterable[Instance]) -> None:
        """Read the records of instances that are not known yet; forget those that are gone."""
        present = {instance.key: instance for instance in instances}
        self._tasks = {key: task for key, task in self._tasks.items() if key in present}
        self._requirements = {
            key: item for key, item in self._requirements.items() if key in present
        }
        self._odd = {mark for mark in self._odd if mark[0] in present}
        self._forget_needs()
        missing = {key[0] for key, instance in present.items() if not self._is_known(instance)}
        named = self._read_named(missing) if missing else {}
        wanted_by = {run: find_named_submission(run, named.get(run)) for run in missing}
        # Those that could not be read when tried come last: they must not stop the others.
        wanted = sorted(
            {each for each in wanted_by.values() if each},
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
        self._unread_runs = frozenset(run for run, each in wanted_by.items() if each in unread)

    def _load(self, submission_id: str) -> bool:
        """Take in a submission's tasks; tell whether all of them make sense."""
        is_whole = True
        for entry in self._records.list_tasks(submission_id):
            with self._troubles.guard("read", entry.name) as guard:
                self.note(entry.read())
            is_whole = is_whole and not guard.is_failed
        return is_whole

    def is_read(self, instance: Instance) -> bool:
        """Tell whether an instance without a record has none, rather than one that was not read."""
        return instance.run_id not in self._unread_runs

    def _forget_needs(self) -> None:
        """Forget what no task asks for any more, also not in another try of it."""
        # By identity: comparing and hashing thousands of them costs as much as a plan.
        used = {id(requirements.needs) for requirements in self._requirements.values()}
        for needs in [needs for needs in self._needs.values() if id(needs) not in used]:
            del self._needs[needs]

    def note(self, task: Task) -> None:
        """Take in a task that somebody else has read or written anyway."""
        if task.spec.program is not None:
            return  # its run is of another DAG, whose runs may have the ids of ours
        self._tasks[find_instance_key(task)] = task

    def _is_known(self, instance: Instance) -> bool:
        if instance.key not in self._tasks:
            return False
        requirements = self._requirements.get(instance.key)
        # What an earlier try ran into decides where the next one may go.
        return requirements is None or requirements.try_number == instance.try_number

    def find(self, instance: Instance) -> Task | None:
        """Return an instance's task as it was last read."""
        return self._tasks.get(instance.key)

    def read(self, instance: Instance) -> Task | None:
        """
        Return an instance's task as it is.

        :raises RecordUnreadable: If its record makes no sense any more.
        """
        known = self._tasks.get(instance.key)
        if known is None:
            return None
        task = self._records.find_task(known.submission_id, known.task_id)
        if task is not None:
            self.note(task)
        return task

    def get_requirements(self, instance: Instance) -> TaskRequirements | None:
        """Return what placement needs to know, or ``None`` while there is no record of it."""
        known = self._requirements.get(instance.key)
        if known is not None and known.try_number == instance.try_number:
            return known
        task = self._tasks.get(instance.key)
        if task is None:
            return None
        if (instance.key, instance.try_number) in self._odd:
            return None
        # One that fails here must not keep all others from being placed.
        with self._troubles.guard("place", task.name):
            requirements = self._requirements[instance.key] = self._build_requirements(
                instance, task
            )
            return requirements
        self._odd.add((instance.key, instance.try_number))
        return None

    def _build_requirements(self, instance: Instance, task: Task) -> TaskRequirements:
        spec, needs = task.spec, build_needs(task)
        return TaskRequirements(
            key=task.key,
            try_number=instance.try_number,
            # One object for equal ones: planning tells them apart by identity first.
            needs=self._needs.setdefault(needs, needs),
            priority=spec.schedule.priority,
            submitter=spec.submitted_by,
            avoid=find_avoided(task),
            duration_key=describe_task(spec),
            since=task.queued_at or task.created_at,
            failed_at=task.newest.ended_at,
            backoff=find_backoff(task),
        )
