"""The reconciler: what a crash or a lost message left undone is done here, again and again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from touchstone.airflow_db.rows import find_instance_key
from touchstone.core import phases
from touchstone.core.authority import may_spend
from touchstone.core.outcomes import Outcome
from touchstone.core.records.submissions import OpenSubmission, Submission
from touchstone.core.records.tasks import Task, TaskEntry, TaskKey
from touchstone.core.schedule import Platform
from touchstone.core.states import SUBMISSION_OPEN, SubmissionStatus, TaskStatus
from touchstone.dispatcher.inventories import InventoryCheck
from touchstone.hooks.agent import START_LIFE, AgentHook, cancel_task, cancel_tasks
from touchstone.services.cancel import cancel_submission, close
from touchstone.services.starts import mark_running
from touchstone.services.troubles import Troubles
from touchstone.settings import Settings
from touchstone.stores.records import RecordStore
from touchstone_agent.protocol.envelope import CLOCK_TOLERANCE
from touchstone_agent.protocol.messages import Cancel, SlotClass

log = logging.getLogger(__name__)

KILL_GRACE = timedelta(seconds=30)
"""How long an Airflow task may have ended before an attempt of it that still runs is an orphan."""

SILENCE_GRACE = timedelta(seconds=120)
"""How long a server must have been silent while this process itself was listening; no longer
than a lease."""

OVERDUE_GRACE = timedelta(minutes=15)
"""How long after an attempt's limit its agent must have ended it, clocks and engines considered."""

PREPARING_LIFE = timedelta(hours=2)
"""How long a server may pull an image, and wait for older attempts to end, before it gives up."""

UPLOAD_LIFE = timedelta(hours=6)
"""How long the files of an ended container are waited for when their server is silent."""


class Airflow(Protocol):
    """What the reconciler needs of Airflow."""

    def find_run_states(self, run_ids: Iterable[str]) -> Mapping[str, str]:
        """Return the states of DAG runs by run id."""

    def read_users(self, run_ids: Iterable[str]) -> Mapping[str, str]:
        """Return who triggered DAG runs, by run id."""

    def release_suspended(self) -> int:
        """Give Airflow back suspended runs that a user has cleared or marked."""

    def find_ended_instances(self, run_ids: Iterable[str]) -> set[tuple[str, str, int]]:
        """Return the task instances of runs that have ended: run id, task id, map index."""

    def fail_runs(self, run_ids: Iterable[str]) -> list[str]:
        """End runs; return those that were ended."""


class Reconciler:
    """
    Compares what is on record with what runs, and mends the difference.

    :param records: The records.
    :param agent: Speaks to agents.
    :param settings: Names and limits of the installation.
    :param airflow: Knows Airflow's runs and tasks.
    :param clock: The time, UTC.
    :param is_hearing: Tells whether this process receives agents' events at the moment; while it
        does not, silence means nothing.
    :param on_pod_end: Told of attempts whose pods are gone.
    :param end_programs: Ends those programs of other DAGs that nobody waits for.
    :param troubles: Where is counted what could not be mended.
    """

    def __init__(
        self,
        *,
        records: RecordStore,
        agent: AgentHook,
        settings: Settings,
        airflow: Airflow,
        clock: Callable[[], datetime],
        is_hearing: Callable[[], bool],
        on_pod_end: Callable[[Task], None] = lambda _: None,
        end_programs: Callable[[Sequence[Task]], None] = lambda _: None,
        troubles: Troubles | None = None,
    ) -> None:
        self._records = records
        self._agent = agent
        self._settings = settings
        self._airflow = airflow
        self._clock = clock
        self._is_hearing = is_hearing
        self._on_pod_end = on_pod_end
        self._troubles = troubles or Troubles(clock)
        self._inventories = InventoryCheck(
            records=records, agent=agent, settings=settings, clock=clock, troubles=self._troubles
        )
        self._end_programs = end_programs
        self._silent_since: dict[str, datetime] = {}
        self._in_pods: dict[TaskKey, TaskStatus] = {}

    def run(self) -> None:
        """
        Make one pass; what cannot be done for one task, server or submission is left for the next.

        :raises TouchstoneError: If it cannot even be told what is at work.
        """
        entries = self._records.list_tasks_at_work()
        found = []
        for entry in entries:
            with self._troubles.guard("make sense of", entry.name):
                found.append(entry.read())
        tasks = [task for task in found if not task.is_ended]
        # What is in a pod its trigger looks after, and the reaper.
        on_servers = [task for task in tasks if not _is_in_pod(task)]
        in_pods = [task for task in found if _is_in_pod(task)]
        programs = [task for task in tasks if task.spec.program is not None]
        odd = [entry for entry in entries if entry.task is None]
        keys = {task.key for task in on_servers}
        shown = [entry for entry in entries if entry.task is None or entry.key in keys]
        steps: dict[str, Callable[[], object]] = {
            "follow the pods": lambda: self._follow_pods(in_pods, odd),
            "release suspended runs": self._airflow.release_suspended,
            "repeat cancels": lambda: self._repeat_cancels(on_servers),
            "declare what is lost": lambda: self._declare_lost(on_servers),
            "compare inventories": lambda: self._compare_inventories(shown),
            "end orphans": lambda: self._end_orphans(
                task for task in tasks if task.spec.program is None
            ),
            "end programs that nobody waits for": lambda: self._end_programs(programs),
            "close ended runs": self._close_ended_runs,
        }
        for name, step in steps.items():
            with self._troubles.guard(name):
                step()

    def _follow_pods(self, tasks: Iterable[Task], odd: Iterable[TaskEntry[Task]]) -> None:
        """
        Do for what is in pods what an agent's word does for what is on servers.

        :param odd: Tasks whose records make no sense: whether they are over is not known.
        """
        now = {task.key: task for task in tasks}
        before = self._in_pods
        waited_for = {entry.key: before[entry.key] for entry in odd if entry.key in before}
        self._in_pods = {**waited_for, **{key: task.status for key, task in now.items()}}
        for key, task in now.items():
            is_training = task.kind is SlotClass.TRAINING
            has_begun = before.get(key) is not TaskStatus.RUNNING
            if is_training and task.status is TaskStatus.RUNNING and has_begun:
                with self._troubles.guard("mark as running", key) as guard:
                    mark_running(self._records, task.submission_id)
                if guard.is_failed:
                    self._in_pods.pop(key)  # looked at again in the next pass
        gone = before.keys() - self._in_pods.keys() - now.keys()
        for key, entry in self._records.find_tasks(sorted(gone)).items():
            with self._troubles.guard("follow the end of", key):
                self._on_pod_end(entry.read())

    def _repeat_cancels(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            with self._troubles.guard("cancel", task.key):
                cancel, server = task.newest.cancel, task.newest.server
                if cancel and server and task.has_attempt and cancel.through_fence >= task.fence:
                    log.info("cancel of %s has no answer yet: sent again", task.name)
                    self._agent.send(server, Cancel(ref=task.ref, reason=cancel.reason))

    def _declare_lost(self, tasks: Sequence[Task]) -> None:
        now = self._clock()
        silent = self._find_silent(now)
        for task in tasks:
            with self._troubles.guard("tell whether there is still anything of", task.key):
                reason = self._find_loss(task, silent, now)
                if reason is not None:
                    self._lose(task, reason, now)

    def _lose(self, task: Task, reason: str, now: datetime) -> None:
        log.warning("%s is lost: %s", task.name, reason)
        self._records.change_task(
            task.submission_id,
            task.task_id,
            lambda found: phases.declare_lost(
                found, fence=task.fence, reason=reason, now=now, is_upload_lost=True
            ),
        )

    def _find_silent(self, now: datetime) -> set[str]:
        """
        Return the servers that nothing was heard of for the lease, nor since we listen.

        Heartbeats are only on record if this process took them in: after it was away itself it
        must give the servers time to be heard.
        """
        if not self._is_hearing():
            self._silent_since.clear()
            return set()
        lease = timedelta(seconds=self._settings.lease_seconds)
        stale = set()
        for entry in self._records.list_servers():
            # One whose record makes no sense may have been heard of: nothing there is lost.
            with self._troubles.guard("hear of", entry.name):
                heard = entry.read().heartbeat_at
                if heard is not None and now - heard > lease:
                    stale.add(entry.name)
        self._silent_since = {name: self._silent_since.get(name, now) for name in stale}
        grace = min(SILENCE_GRACE, lease)
        return {name for name, since in self._silent_since.items() if now - since > grace}

    def _find_loss(self, task: Task, silent: set[str], now: datetime) -> str | None:
        newest = task.newest
        if newest.intent_at is None or not task.has_attempt:
            return None
        lease = timedelta(seconds=self._settings.lease_seconds)
        age = now - newest.intent_at
        if newest.phase is None and age > START_LIFE + 2 * CLOCK_TOLERANCE:
            # No agent may act on that START any more, so no other attempt can run beside it.
            return f"server {newest.server} never took its START"
        may_upload = task.status is TaskStatus.UPLOADING and (
            newest.exited_at is None or now - newest.exited_at < UPLOAD_LIFE
        )
        if newest.server in silent and age >= lease and not may_upload:
            return f"server {newest.server} has been silent for more than {lease}"
        return _find_overdue(task, now)

    def _compare_inventories(self, tasks: Iterable[TaskEntry[Task]]) -> None:
        if self._is_hearing():
            self._inventories.compare(tasks)

    def _end_orphans(self, tasks: Iterable[Task]) -> None:
        """
        End attempts that no Airflow task waits for.

        A task that is killed while it starts, or whose triggerer dies before it knows, leaves
        its container behind, whatever became of the submission.
        """
        now = self._clock()
        running, owners = {}, {}
        for task in tasks:
            sent_at = task.newest.intent_at
            if (
                task.has_attempt
                and task.newest.cancel is None
                and task.status is not TaskStatus.UPLOADING
                and sent_at is not None
                and now - sent_at > KILL_GRACE
            ):
                owners[task.run_id] = task.spec.submitted_by
                running[find_instance_key(task)] = task
        ended = self._airflow.find_ended_instances(run_id for run_id, _, _ in running)
        foreign = self._find_foreign(owners)
        for instance in ended & running.keys():
            if instance[0] in foreign:
                continue
            task = running[instance]
            with self._troubles.guard("end the orphan", task.key):
                cancel_task(
                    self._records,
                    self._agent,
                    submission_id=task.submission_id,
                    task_id=task.task_id,
                    by="airflow",
                    reason="its Airflow task has ended",
                    only_fence=task.fence,
                )

    def _close_ended_runs(self) -> None:
        """A run that somebody ended by hand never comes to ``evaluate``, which would close it."""
        found = self._records.list_open_submissions(OpenSubmission)
        for submission_id, error in found.unreadable.items():
            self._troubles.note("read the record of", submission_id, error)
        newest = {}
        for submission in found.records:
            self._troubles.settle("read the record of", submission.submission_id)
            with self._troubles.guard("find the run of", submission.submission_id):
                if submission.status in SUBMISSION_OPEN:
                    newest[submission.run_ids[-1]] = submission
        states = self._airflow.find_run_states(newest)
        foreign = self._find_foreign(
            {run_id: submission.submitted_by for run_id, submission in newest.items()}
        )
        for run_id, submission in newest.items():
            with self._troubles.guard("close", submission.submission_id):
                state = None if run_id in foreign else states.get(run_id)
                self._close_if_ended(submission, state)

    def _close_if_ended(self, submission: OpenSubmission, state: str | None) -> None:
        submission_id = submission.submission_id
        intent = submission.cancel
        if intent:
            # The process that wrote it down died before the rest was done.
            cancel_submission(
                submission_id,
                by=intent.by,
                records=self._records,
                agent=self._agent,
                end_runs=self._airflow.fail_runs,
            )
            return
        if state not in {"failed", "success"}:
            return
        reason = "its DAG run has ended"
        cancel_tasks(self._records, self._agent, submission_id, by="airflow", reason=reason)
        tasks = [entry.read() for entry in self._records.list_tasks(submission_id)]
        if any(not task.is_ended for task in tasks):
            return
        log.info("submission %s: its run is %s, closed", submission_id, state)
        self._records.change_submission(submission_id, lambda found: _close(found, tasks))

    def _find_foreign(self, owners: Mapping[str, str]) -> set[str]:
        """
        Return the runs that bear the id of one on record, and are others.

        Somebody has deleted the one on record, and somebody else triggered a run of the same id:
        how that one ends says nothing of what the first had at work.

        :param owners: Whose submission each run is on record for.
        """
        users = self._airflow.read_users(owners)
        return {
            run_id
            for run_id, owner in owners.items()
            if run_id in users and not may_spend(owner, users[run_id], self._settings.admins)
        }


def _is_in_pod(task: Task) -> bool:
    return task.newest.platform is Platform.RUNPOD


def _find_overdue(task: Task, now: datetime) -> str | None:
    """
    Say that an attempt should long have got further, whatever its server says of being alive.

    A heartbeat renews the lease of a server, and nothing of an attempt that does not get on.
    """
    newest = task.newest
    server, begun, told = newest.server, newest.running_at, newest.last_event_at
    if task.status is TaskStatus.RUNNING and begun:
        wall = timedelta(seconds=task.spec.limits.wall_seconds)
        if now - begun > wall + OVERDUE_GRACE:
            return f"it runs beyond its limit of {wall}, and server {server} has not ended it"
    if task.status is TaskStatus.PREPARING and told and now - told > PREPARING_LIFE:
        return f"server {server} has not begun it within {PREPARING_LIFE}"
    return None


def _close(found: Submission, tasks: Iterable[Task]) -> Submission | None:
    broken = [
        task
        for task in tasks
        if task.newest.outcome not in {None, Outcome.SUCCEEDED, Outcome.CANCELLED}
    ]
    if not broken:
        why = found.cancel and found.cancel.reason
        return close(found, why or "its DAG run was ended")
    reason = f"{broken[0].task_id}: {broken[0].newest.reason}"
    return close(found, reason, SubmissionStatus.ERROR)
