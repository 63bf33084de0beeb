"""Begins attempts: the intent on record first, then the command to the server."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime

from touchstone.core import attempts, phases
from touchstone.core.records.submissions import Submission
from touchstone.core.records.tasks import AttemptPlacement, Task
from touchstone.core.schedule import Platform
from touchstone.core.states import SUBMISSION_OPEN, IllegalMove, SubmissionStatus
from touchstone.core.tasks import TaskSpec, build_start, list_inputs
from touchstone.hooks.agent import AgentHook
from touchstone.settings import Settings
from touchstone.stores.objects import ObjectStore
from touchstone.stores.records import RecordStore
from touchstone.stores.tables import RecordExists, RecordNotFound
from touchstone_agent.protocol.errors import MessageTooLarge
from touchstone_agent.protocol.messages import Grant


def grant_inputs(objects: ObjectStore, settings: Settings, spec: TaskSpec) -> dict[str, Grant]:
    """Return leave to read each of a task's inputs, by its path below the input folder."""
    return {
        path: objects.grant_get(settings.content_bucket, each.key)
        for path, each in list_inputs(spec).items()
    }


def prepare_task(
    records: RecordStore,
    spec: TaskSpec,
    *,
    run_id: str,
    map_index: int,
    now: datetime,
) -> Task:
    """
    Put a task that a run has just planned on record, in place of what an older plan has left.

    :param map_index: Index of the task instance that waits for it; -1 for a single one.
    :return: The task.
    """
    try:
        records.create_task(attempts.new_task(spec, run_id=run_id, map_index=map_index, now=now))
    except RecordExists:
        return records.change_task(
            spec.submission_id,
            spec.task_id,
            lambda task: attempts.renew_task(task, spec, run_id=run_id, map_index=map_index),
        )
    return records.get_task(spec.submission_id, spec.task_id)


@dataclass(frozen=True, kw_only=True)
class StartOrder:
    """
    A decision to start one try of a task somewhere.

    :param run_id: The DAG run that the task is of.
    :param attempt: Airflow's try number.
    :param server: Where it goes.
    :param gpus: GPUs to hand over.
    :param placement: Why there, and what was expected of the wait; kept with the attempt.
    :param platform: What the server is; to RunPod nothing is sent, a trigger rents the pod.
    """

    submission_id: str
    task_id: str
    run_id: str
    attempt: int
    server: str
    gpus: int = 0
    placement: AttemptPlacement | None = None
    platform: Platform = Platform.ON_PREM


class Starter:
    """
    Starts attempts on servers.

    :param records: The records.
    :param objects: Signs for the content.
    :param agent: Speaks to agents.
    :param settings: Names of the installation.
    """

    def __init__(
        self,
        *,
        records: RecordStore,
        objects: ObjectStore,
        agent: AgentHook,
        settings: Settings,
    ) -> None:
        self._records = records
        self._objects = objects
        self._agent = agent
        self._settings = settings

    @classmethod
    def connect(cls, settings: Settings) -> Starter:
        """Return a starter on the installation's connections."""
        return cls(
            records=RecordStore.connect(settings),
            objects=ObjectStore.connect(settings),
            agent=AgentHook(settings=settings),
            settings=settings,
        )

    def start(self, order: StartOrder) -> Task:
        """
        Claim the attempt and send START.

        Doing it again for the same try claims nothing again: the command is sent again, which
        its server recognises, unless the server has answered or the task was taken over.

        :return: The task; its ``run_id`` is another one if the task was taken over, and
            it has ended if the command is larger than a queue takes.
        :raises TransientError: If a store or queue cannot be reached. What was claimed is on
            record by then, and calling again goes on from there.
        """

        def decide(task: Task) -> Task | None:
            if task.run_id != order.run_id or task.newest.number == order.attempt:
                return None
            return attempts.claim_attempt(
                task,
                attempt=order.attempt,
                server=order.server,
                container_of=lambda ref: ref.container_name(self._settings.env),
                now=datetime.now(UTC),
                gpus=order.gpus,
                placement=order.placement,
                platform=order.platform,
            )

        task = self._records.change_task(order.submission_id, order.task_id, decide)
        newest = task.newest
        if (
            task.run_id == order.run_id
            and newest.number == order.attempt
            and newest.platform is not Platform.RUNPOD
            and newest.phase is None
            and newest.cancel is None
            and not task.is_ended
        ):
            try:
                self._send(task, order)
            except MessageTooLarge as error:
                # No try will ever send it: the trigger of the attempt shows why at once.
                fence, reason = task.fence, f"it cannot be started: {error}"
                return self._records.change_task(
                    order.submission_id,
                    order.task_id,
                    lambda found: phases.refuse_start(
                        found, fence=fence, reason=reason, now=datetime.now(UTC)
                    ),
                )
        return task

    def _send(self, task: Task, order: StartOrder) -> None:
        spec = attempts.build_attempt_spec(task)
        grants = grant_inputs(self._objects, self._settings, spec)
        # The claim chose the server, and so the GPUs; a second caller may have chosen another
        # server.
        gpus = order.gpus if task.newest.gpus is None else task.newest.gpus
        start = build_start(spec, task.ref, grants, gpus=gpus)
        self._agent.send(task.newest.server or order.server, start)


def mark_running(records: RecordStore, submission_id: str) -> None:
    """Write down that a submission runs, unless it cannot, does already, or is not there."""

    def decide(found: Submission) -> Submission | None:
        # Also from an end: a cleared task trains again.
        if found.status is SubmissionStatus.RUNNING or not found.accepted_at:
            return None
        running = found.move(SubmissionStatus.RUNNING)
        if found.status in SUBMISSION_OPEN:
            return running
        # An earlier attempt was cancelled; that request is fulfilled and does not concern this one.
        return running.change(cancel=None, ended_at=None, reason=None)

    with contextlib.suppress(IllegalMove, RecordNotFound):
        records.change_submission(submission_id, decide)
