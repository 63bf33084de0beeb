"""Begins attempts: the intent on record first, then the command to the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from touchstone.core import attempts
from touchstone.core.conf import Platform
from touchstone.core.names import build_content_key
from touchstone.core.tasks import TaskSpec, build_start, list_archives
from touchstone.hooks.agent import AgentHook
from touchstone.hooks.objects import ObjectStore
from touchstone.hooks.records import Record, RecordExists, RecordStore
from touchstone.settings import Settings
from touchstone_agent.protocol.errors import MessageTooLarge
from touchstone_agent.protocol.messages import Grant


def grant_archives(objects: ObjectStore, settings: Settings, spec: TaskSpec) -> dict[str, Grant]:
    """Return leave to read each of a task's archives, by the folder that it is unpacked to."""
    return {
        folder: objects.grant_get(settings.content_bucket, build_content_key(sha256))
        for folder, (sha256, _) in list_archives(spec).items()
    }


def prepare_task(
    records: RecordStore,
    spec: TaskSpec,
    *,
    run_id: str,
    map_index: int,
    now: datetime,
) -> Record:
    """
    Put a task that a run has just planned on record, in place of what an older plan has left.

    :param map_index: Index of the task instance that waits for it; -1 for a single one.
    :return: The task's record.
    """
    try:
        records.create_task(attempts.new_task(spec, run_id=run_id, map_index=map_index, now=now))
    except RecordExists:
        return records.change_task(
            spec.submission_id,
            spec.task_id,
            lambda record: attempts.renew_task(record, spec, run_id=run_id, map_index=map_index),
        )
    return records.get_task(spec.submission_id, spec.task_id)


@dataclass(frozen=True, kw_only=True)
class StartOrder:
    """
    A decision to start one try of a task somewhere.

    :param run_id: The DAG run that wants it.
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
    placement: Mapping[str, Any] | None = None
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

    def start(self, order: StartOrder) -> Record:
        """
        Claim the attempt and send START.

        Doing it again for the same try claims nothing again: the command is sent again, which
        its server recognises, unless the server has answered or the task was taken over.

        :return: The task's record; its ``run_id`` is another one if the task was taken over, and
            it has ended if the command is larger than a queue takes.
        :raises TransientError: If a store or queue cannot be reached. What was claimed is on
            record by then, and calling again goes on from there.
        """

        def decide(record: Record) -> Record | None:
            if record["run_id"] != order.run_id or record["attempt"] == order.attempt:
                return None
            return attempts.claim_attempt(
                record,
                attempt=order.attempt,
                server=order.server,
                container_of=lambda ref: ref.container_name(self._settings.env),
                now=datetime.now(UTC),
                gpus=order.gpus,
                placement=order.placement,
                platform=order.platform,
            )

        record = self._records.change_task(order.submission_id, order.task_id, decide)
        if (
            record["run_id"] == order.run_id
            and record["attempt"] == order.attempt
            and record["platform"] != Platform.RUNPOD
            and record.get("phase") is None
            and not record.get("cancel")
            and not attempts.is_ended(record)
        ):
            try:
                self._send(record, order)
            except MessageTooLarge as error:
                # No try will ever send it: whoever waits for the attempt hears why at once.
                fence, reason = int(record["fence"]), f"it cannot be started: {error}"
                return self._records.change_task(
                    order.submission_id,
                    order.task_id,
                    lambda found: attempts.refuse_start(
                        found, fence=fence, reason=reason, now=datetime.now(UTC)
                    ),
                )
        return record

    def _send(self, record: Record, order: StartOrder) -> None:
        spec = attempts.build_attempt_spec(record)
        grants = grant_archives(self._objects, self._settings, spec)
        # Whoever claimed it chose the server, and so what it is given; a second caller may have
        # another one in mind.
        gpus = order.gpus if record.get("gpus") is None else int(record["gpus"])
        start = build_start(spec, attempts.get_ref(record), grants, gpus=gpus)
        self._agent.send(record["server"], start)
