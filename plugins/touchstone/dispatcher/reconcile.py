"""The reconciler: what a crash or a lost message left undone is done here, again and again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

from touchstone.core import attempts
from touchstone.core.authority import may_spend
from touchstone.core.conf import Platform
from touchstone.core.outcomes import Outcome
from touchstone.core.states import SUBMISSION_OPEN, SubmissionStatus, TaskStatus
from touchstone.core.times import read_time
from touchstone.dispatcher.cancel import cancel_submission, close_cancelled
from touchstone.dispatcher.inventories import InventoryCheck
from touchstone.dispatcher.running import mark_running
from touchstone.dispatcher.troubles import Troubles
from touchstone.hooks.agent import START_LIFE, AgentHook, cancel_task, cancel_tasks
from touchstone.hooks.records import Record, RecordStore
from touchstone.settings import Settings
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

    def release_parked(self) -> int:
        """Let Airflow have parked runs back that somebody has cleared or marked."""

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
        on_pod_end: Callable[[Record], None] = lambda _: None,
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
        self._silent_since: dict[str, datetime] = {}
        self._in_pods: dict[tuple[str, str], str] = {}

    def run(self) -> None:
        """
        Make one pass; what cannot be done for one task, server or submission is left for the next.

        :raises TouchstoneError: If it cannot even be told what is at work.
        """
        found = self._records.list_tasks_at_work()
        tasks = []
        for task in found:
            with self._troubles.guard("make sense of", _key(task)):
                if not attempts.is_ended(task):
                    tasks.append(task)
        # What is in a pod its trigger looks after, and the reaper.
        on_servers = [task for task in tasks if task.get("platform") != Platform.RUNPOD]
        in_pods = [task for task in found if task.get("platform") == Platform.RUNPOD]
        steps: dict[str, Callable[[], object]] = {
            "follow the pods": lambda: self._follow_pods(in_pods),
            "release parked runs": self._airflow.release_parked,
            "repeat cancels": lambda: self._repeat_cancels(on_servers),
            "declare what is lost": lambda: self._declare_lost(on_servers),
            "compare inventories": lambda: self._compare_inventories(on_servers),
            "end orphans": lambda: self._end_orphans(tasks),
            "close ended runs": self._close_ended_runs,
        }
        for name, step in steps.items():
            with self._troubles.guard(name):
                step()

    def _follow_pods(self, tasks: Iterable[Record]) -> None:
        """Do for what is in pods what an agent's word does for what is on servers."""
        now = {(task["submission_id"], task["task_id"]): task for task in tasks}
        before, self._in_pods = (
            self._in_pods,
            {key: str(task.get("status")) for key, task in now.items()},
        )
        for key, task in now.items():
            is_training = task.get("kind") == SlotClass.TRAINING
            has_begun = before.get(key) != TaskStatus.RUNNING
            if is_training and task.get("status") == TaskStatus.RUNNING and has_begun:
                with self._troubles.guard("mark as running", key) as guard:
                    mark_running(self._records, task["submission_id"])
                if guard.is_failed:
                    self._in_pods.pop(key)  # looked at again in the next pass
        for key, task in self._records.find_tasks(sorted(before.keys() - now.keys())).items():
            with self._troubles.guard("follow the end of", key):
                self._on_pod_end(task)

    def _repeat_cancels(self, tasks: Iterable[Record]) -> None:
        for task in tasks:
            with self._troubles.guard("cancel", _key(task)):
                cancel = task.get("cancel")
                if cancel and task.get("attempt") and cancel["through_fence"] >= task["fence"]:
                    ref = attempts.get_ref(task)
                    log.info("cancel of %s has no answer yet: sent again", ref.task_key)
                    self._agent.send(task["server"], Cancel(ref=ref, reason=cancel["reason"]))

    def _declare_lost(self, tasks: Sequence[Record]) -> None:
        now = self._clock()
        silent = self._find_silent(now)
        for task in tasks:
            with self._troubles.guard("tell whether there is still anything of", _key(task)):
                reason = self._find_loss(task, silent, now)
                if reason is not None:
                    self._lose(task, reason, now)

    def _lose(self, task: Record, reason: str, now: datetime) -> None:
        log.warning("%s/%s is lost: %s", task["submission_id"], task["task_id"], reason)
        self._records.change_task(
            task["submission_id"],
            task["task_id"],
            lambda record: attempts.declare_lost(
                record, fence=task["fence"], reason=reason, now=now, is_upload_lost=True
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
        for server in self._records.list_servers():
            with self._troubles.guard("hear of", server["server"]):
                heard = server.get("heartbeat_at")
                if heard and now - read_time(heard) > lease:
                    stale.add(str(server["server"]))
        self._silent_since = {name: self._silent_since.get(name, now) for name in stale}
        grace = min(SILENCE_GRACE, lease)
        return {name for name, since in self._silent_since.items() if now - since > grace}

    def _find_loss(self, task: Record, silent: set[str], now: datetime) -> str | None:
        sent_at = task.get("intent_at")
        if not sent_at or not task.get("attempt"):
            return None
        lease = timedelta(seconds=self._settings.lease_seconds)
        age = now - read_time(sent_at)
        if task["phase"] is None and age > START_LIFE + 2 * CLOCK_TOLERANCE:
            # No agent may act on that START any more, so no other attempt can run beside it.
            return f"server {task['server']} never took its START"
        exited_at = task.get("exited_at")
        may_upload = task["status"] == TaskStatus.UPLOADING and (
            exited_at is None or now - read_time(exited_at) < UPLOAD_LIFE
        )
        if task["server"] in silent and age >= lease and not may_upload:
            return f"server {task['server']} has been silent for more than {lease}"
        return _find_overdue(task, now)

    def _compare_inventories(self, tasks: Iterable[Record]) -> None:
        if self._is_hearing():
            self._inventories.compare(tasks)

    def _end_orphans(self, tasks: Iterable[Record]) -> None:
        """
        End attempts that no Airflow task waits for.

        A task that is killed while it starts, or whose triggerer dies before it is told, leaves
        its container behind, whatever became of the submission.
        """
        now = self._clock()
        running, owners = {}, {}
        for task in tasks:
            with self._troubles.guard("find who waits for", _key(task)):
                if (
                    task.get("attempt")
                    and not task.get("cancel")
                    and task["status"] != TaskStatus.UPLOADING
                    and now - read_time(task["intent_at"]) > KILL_GRACE
                ):
                    owners[task["run_id"]] = str(task["config"].get("submitted_by"))
                    running[_instance_of(task)] = task
        ended = self._airflow.find_ended_instances(run_id for run_id, _, _ in running)
        strangers = self._find_strangers(owners)
        for instance in ended & running.keys():
            if instance[0] in strangers:
                continue
            task = running[instance]
            with self._troubles.guard("end the orphan", _key(task)):
                cancel_task(
                    self._records,
                    self._agent,
                    submission_id=task["submission_id"],
                    task_id=task["task_id"],
                    by="airflow",
                    reason="its Airflow task has ended",
                    only_fence=task["fence"],
                )

    def _close_ended_runs(self) -> None:
        """A run that somebody ended by hand never comes to ``evaluate``, which would close it."""
        newest = {}
        for submission in self._records.list_open_submissions():
            with self._troubles.guard("find the run of", submission["submission_id"]):
                if submission["status"] in SUBMISSION_OPEN:
                    newest[str(submission["run_ids"][-1])] = submission
        states = self._airflow.find_run_states(newest)
        strangers = self._find_strangers(
            {run_id: str(item.get("submitted_by")) for run_id, item in newest.items()}
        )
        for run_id, submission in newest.items():
            with self._troubles.guard("close", submission["submission_id"]):
                state = None if run_id in strangers else states.get(run_id)
                self._close_if_ended(submission, state)

    def _close_if_ended(self, submission: Record, state: str | None) -> None:
        submission_id = submission["submission_id"]
        intent = submission.get("cancel")
        if intent:
            # Whoever wrote it down died before the rest was done.
            cancel_submission(
                submission_id,
                by=intent["by"],
                records=self._records,
                agent=self._agent,
                end_runs=self._airflow.fail_runs,
            )
            return
        if state not in {"failed", "success"}:
            return
        reason = "its DAG run has ended"
        cancel_tasks(self._records, self._agent, submission_id, by="airflow", reason=reason)
        tasks = self._records.list_tasks(submission_id)
        if any(not attempts.is_ended(task) for task in tasks):
            return
        log.info("submission %s: its run is %s, closed", submission_id, state)
        self._records.change_submission(submission_id, lambda found: _close(found, tasks))

    def _find_strangers(self, owners: Mapping[str, str]) -> set[str]:
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
            if run_id in users
            and not may_spend({"submitted_by": owner}, users[run_id], self._settings.admins)
        }


def _key(task: Record) -> tuple[object, object]:
    """Return a task's key, for messages; of a record that makes no sense what there is of it."""
    return task.get("submission_id"), task.get("task_id")


def _find_overdue(task: Record, now: datetime) -> str | None:
    """
    Say that an attempt should long have got further, whatever its server says of being alive.

    A heartbeat renews the lease of a server, and nothing of an attempt that does not get on.
    """
    server = task["server"]
    if task["status"] == TaskStatus.RUNNING and task.get("running_at"):
        wall = timedelta(seconds=int(task["config"]["limits"]["wall_seconds"]))
        if now - read_time(task["running_at"]) > wall + OVERDUE_GRACE:
            return f"it runs beyond its limit of {wall}, and server {server} has not ended it"
    told = task.get("last_event_at")
    if task["status"] == TaskStatus.PREPARING and told and now - read_time(told) > PREPARING_LIFE:
        return f"server {server} has not begun it within {PREPARING_LIFE}"
    return None


def _instance_of(task: Record) -> tuple[str, str, int]:
    """Return the Airflow task instance that waits for a task: run id, task id, map index."""
    if task["kind"] == SlotClass.VALIDATION:
        return task["run_id"], "validate", -1
    return task["run_id"], "train", task["map_index"]


def _close(found: Record, tasks: Iterable[Mapping[str, Any]]) -> Record | None:
    broken = [
        task
        for task in tasks
        if task.get("outcome") not in {None, Outcome.SUCCEEDED, Outcome.CANCELLED}
    ]
    if not broken:
        cancel = found.get("cancel") or {}
        return close_cancelled(found, str(cancel.get("reason") or "its DAG run was ended"))
    changes = close_cancelled(found, f"{broken[0]['task_id']}: {broken[0].get('reason')}")
    return changes and {**changes, "status": SubmissionStatus.ERROR.value}
