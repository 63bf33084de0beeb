"""Speaks to agents: signs commands and puts them on a server's queues."""

from __future__ import annotations

import hmac
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from airflow.sdk.bases.hook import BaseHook
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from touchstone.core import phases
from touchstone.core.records.tasks import Task
from touchstone.core.schedule import Platform
from touchstone.settings import Settings, get_settings
from touchstone.stores.aws import build_client, translated_errors
from touchstone.stores.records import RecordStore
from touchstone_agent.protocol.envelope import CommandMessage, Header, load_private_key, seal
from touchstone_agent.protocol.errors import ConfigurationError
from touchstone_agent.protocol.messages import AttemptRef, Cancel, Command, Start
from touchstone_agent.protocol.names import build_control_queue, build_request_queue

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

CONTROL_KEY_ID = "control"
START_LIFE = timedelta(hours=1)
"""How long a START may wait in a queue: no longer than the grants in it."""
CONTROL_LIFE = timedelta(days=4)


class AgentHook(BaseHook):
    """
    Sends commands to agents.

    :param agent_conn_id: Airflow connection whose password is the control plane's Ed25519
        private key, base64 of 32 bytes.
    :param settings: Names of the installation; ``None`` for those of this process.
    """

    conn_name_attr = "agent_conn_id"
    default_conn_name = "touchstone_agent"
    conn_type = "touchstone_agent"
    hook_name = "Touchstone agents"

    def __init__(
        self, agent_conn_id: str | None = None, *, settings: Settings | None = None
    ) -> None:
        super().__init__()
        self.settings = settings or get_settings()
        self.agent_conn_id = agent_conn_id or self.settings.agent_conn_id
        self._queue_urls: dict[str, str] = {}

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, object]:
        """Return how Airflow's connection form looks: one field, the key."""
        return {
            "hidden_fields": ["host", "schema", "login", "port", "extra"],
            "relabeling": {"password": "Control plane's private key (Ed25519, base64)"},
            "placeholders": {"password": "made by: touchstone init"},
        }

    @cached_property
    def secret(self) -> bytes:
        """
        Return the control plane's private key, 32 bytes. Not for an event loop: it may block.

        :raises ConfigurationError: If the connection has none; names it.
        """
        password = self.get_connection(self.agent_conn_id).password
        if not password:
            raise ConfigurationError(
                f"connection {self.agent_conn_id!r} has no password: it holds the key that signs "
                "commands to agents"
            )
        try:
            return load_private_key(password).private_bytes_raw()
        except ConfigurationError as error:
            # Without the password itself, which is nearly a key.
            raise ConfigurationError(
                f"the password of connection {self.agent_conn_id!r} is no key: {error}"
            ) from None

    @cached_property
    def _key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.secret)

    @cached_property
    def placement_key(self) -> bytes:
        """Return the key that seals what the dispatcher leaves for operators in Airflow."""
        return hmac.digest(self._key.private_bytes_raw(), b"touchstone placement", "sha256")

    @cached_property
    def _sqs(self) -> SQSClient:
        client: SQSClient = build_client("sqs", self.settings.aws_conn_id)
        return client

    def get_conn(self) -> SQSClient:
        """Return the SQS client."""
        return self._sqs

    def send(self, server: str, command: Command, *, correlation_id: str | None = None) -> str:
        """
        Send a command to a server.

        START goes to the request queue, everything else to the control queue, so that a cancel
        never stands behind a start.

        :param correlation_id: The event that is answered, if any.
        :return: The message's id.
        :raises TransientError: If the queue cannot be reached now.
        """
        is_start = isinstance(command, Start)
        now = datetime.now(UTC)
        header = Header(
            message_id=str(uuid.uuid4()),
            correlation_id=correlation_id,
            env=self.settings.env,
            server=server,
            issued_at=now,
            expires_at=now + (START_LIFE if is_start else CONTROL_LIFE),
        )
        text = seal(CommandMessage(header=header, body=command), CONTROL_KEY_ID, self._key)
        queue = build_request_queue(server) if is_start else build_control_queue(server)
        ref: AttemptRef | None = getattr(command, "ref", None)
        group = ref.task_key if ref else "server"
        with translated_errors(f"sending {command.kind} for {group} to {queue}"):
            self._sqs.send_message(
                QueueUrl=self._get_queue_url(queue),
                MessageBody=text,
                MessageGroupId=group,
                MessageDeduplicationId=header.message_id,
            )
        return header.message_id

    def _get_queue_url(self, queue: str) -> str:
        if queue not in self._queue_urls:
            self._queue_urls[queue] = self._sqs.get_queue_url(QueueName=queue)["QueueUrl"]
        return self._queue_urls[queue]


def cancel_task(
    records: RecordStore,
    agent: AgentHook,
    *,
    submission_id: str,
    task_id: str,
    by: str,
    reason: str,
    only_fence: int | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Task:
    """
    End a task's newest attempt: the intent goes on record first, then the command.

    Cancelling what has ended, or was cancelled before, is success; the command is sent again,
    because the first one may have been lost.

    :param by: Who asked.
    :param reason: Why, one line.
    :param only_fence: Do it only while this attempt is the newest; ``None`` for any.
    :return: The task afterwards.
    :raises RecordUnreadable: If its record makes no sense: it is unknown then what to end.
    """

    def decide(task: Task) -> Task | None:
        if only_fence is not None and task.fence != only_fence:
            return None
        return phases.request_cancel(task, by=by, reason=reason, now=clock())

    task = records.change_task(submission_id, task_id, decide)
    if only_fence is not None and task.fence != only_fence:
        return task
    newest = task.newest
    if newest.platform is Platform.RUNPOD:
        # There is no agent: the pod's driver or the reaper sees the cancel request.
        return task
    if newest.cancel and newest.server and task.has_attempt and not task.is_ended:
        agent.send(newest.server, Cancel(ref=task.ref, reason=reason))
    return task


def cancel_tasks(
    records: RecordStore,
    agent: AgentHook,
    submission_id: str,
    *,
    by: str = "airflow",
    reason: str = "another attempt takes its place",
) -> list[str]:
    """
    Cancel every task of a submission that has not ended; return their ids.

    :raises RecordUnreadable: If the record of one makes no sense. All others are cancelled by then;
        that one may go on, so nobody may take the submission for ended.
    """
    entries = records.list_tasks(submission_id)
    open_tasks = [entry.task for entry in entries if entry.task and not entry.task.is_ended]
    for task in open_tasks:
        cancel_task(
            records,
            agent,
            submission_id=submission_id,
            task_id=task.task_id,
            by=by,
            reason=reason,
        )
    for entry in entries:
        entry.read()
    return [task.task_id for task in open_tasks]
