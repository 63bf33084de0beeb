"""A small control plane: sends commands, answers what agents ask, remembers what they say."""

from __future__ import annotations

import base64
import hashlib
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from fakes.images import RUNNER_IMAGE
from touchstone_agent.protocol.envelope import (
    CommandMessage,
    EventMessage,
    Header,
    generate_key,
    load_private_key,
    load_public_key,
    open_event,
    seal,
)
from touchstone_agent.protocol.errors import MessageRefused
from touchstone_agent.protocol.messages import (
    FINAL_PHASES,
    Acknowledge,
    AttemptPhase,
    AttemptRef,
    Cancel,
    Command,
    Grant,
    GrantPurpose,
    Grants,
    GrantsWanted,
    Hello,
    Input,
    Limits,
    PhaseChanged,
    PullLogin,
    PullLoginWanted,
    SlotClass,
    Start,
    Sync,
)
from touchstone_agent.protocol.names import (
    build_control_queue,
    build_event_queue,
    build_request_queue,
)
from waiting import wait_for

Found = TypeVar("Found")


class ControlPlane:
    """
    One environment with one server, on real queues and buckets.

    :param endpoint_url: Where SQS and S3 are.
    :param server: Name of the server.
    """

    def __init__(self, endpoint_url: str, *, server: str = "testbox") -> None:
        self.endpoint_url = endpoint_url
        self.env = f"t{uuid.uuid4().hex[:8]}"
        self.server = server
        self.private_key, self.public_key = generate_key()
        self.server_private_key, server_public_key = generate_key()
        self._server_keys = {server: load_public_key(server_public_key)}
        options: dict[str, Any] = {
            "endpoint_url": endpoint_url,
            "region_name": "us-east-1",
            "aws_access_key_id": "test",
            "aws_secret_access_key": "test",
        }
        retries = {"total_max_attempts": 1}
        self._sqs = boto3.client("sqs", config=Config(retries=retries), **options)
        s3_config = Config(signature_version="s3v4", s3={"addressing_style": "path"})
        self._s3 = boto3.client("s3", config=s3_config, **options)
        self.bucket = f"content-{self.env}"
        self.is_acknowledging = True
        self.is_granting = True
        self.grant_seconds = 600
        self.expected: tuple[AttemptRef, ...] | None = None
        self.events: list[EventMessage] = []
        self.refused: list[str] = []
        self.answer_login: Callable[[PullLoginWanted], PullLogin] | None = None
        self.texts: list[str] = []
        """All that was put on its queues, in either direction."""
        self._seen: set[str] = set()
        self.unless: Callable[[], object] = lambda: None
        """Says why nothing more can come of the server; see :func:`waiting.wait_for`."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    # --- life ---------------------------------------------------------------------------------

    def open(self) -> ControlPlane:
        """Make queues and bucket, and begin to listen."""
        self.make_queues()
        self._s3.create_bucket(Bucket=self.bucket)
        self._thread.start()
        return self

    def make_queues(self) -> None:
        """Make the queues; those that exist are kept."""
        for name in self.queue_names:
            self._sqs.create_queue(QueueName=name, Attributes={"FifoQueue": "true"})

    def delete_queue(self, name: str) -> None:
        """Delete a queue."""
        self._sqs.delete_queue(QueueUrl=self._url(name))

    def close(self) -> None:
        """Stop listening."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def queue_names(self) -> tuple[str, str, str]:
        """Return the request, the control and the event queue."""
        return (
            build_request_queue(self.server),
            build_control_queue(self.server),
            build_event_queue(self.env),
        )

    # --- commands -----------------------------------------------------------------------------

    def send(
        self,
        command: Command,
        *,
        correlation_id: str | None = None,
        private_key: str | None = None,
        header: dict[str, Any] | None = None,
    ) -> str:
        """Sign and send a command; arguments to forge one with."""
        now = datetime.now(UTC)
        fields: dict[str, Any] = {
            "message_id": uuid.uuid4().hex,
            "correlation_id": correlation_id,
            "env": self.env,
            "server": self.server,
            "issued_at": now,
            "expires_at": now + timedelta(hours=1),
            **(header or {}),
        }
        message = CommandMessage(header=Header(**fields), body=command)
        text = seal(message, "control", load_private_key(private_key or self.private_key))
        is_start = isinstance(command, Start)
        ref = getattr(command, "ref", None)
        self.send_text(
            self.queue_names[0 if is_start else 1], text, group=ref.task_key if ref else "server"
        )
        return message.header.message_id

    def send_text(self, queue: str, text: str, *, group: str = "any") -> None:
        """Put any text on a queue."""
        self.texts.append(text)
        self._sqs.send_message(
            QueueUrl=self._url(queue),
            MessageBody=text,
            MessageGroupId=group,
            MessageDeduplicationId=uuid.uuid4().hex,
        )

    def make_start(
        self,
        argv: Iterable[str],
        *,
        ref: AttemptRef | None = None,
        image: str = RUNNER_IMAGE,
        slot_class: SlotClass = SlotClass.TRAINING,
        inputs: tuple[Input, ...] = (),
        **limits: Any,
    ) -> Start:
        """Build a START of a scenario of the test runner."""
        scenario, *rest = argv
        ref = ref or make_ref()
        return Start(
            ref=ref,
            slot_class=slot_class,
            image=image,
            argv=(scenario, "{in}", "{out}", *rest),
            environment={"TOUCHSTONE_SUBMISSION_ID": ref.submission_id},
            inputs=inputs,
            limits=Limits(
                **{"memory_mib": 128, "wall_seconds": 600, "output_bytes": 256 * 1024**2, **limits}
            ),
        )

    def start(self, argv: Iterable[str], **arguments: Any) -> AttemptRef:
        """Send a START of a scenario of the test runner."""
        command = self.make_start(argv, **arguments)
        self.send(command)
        return command.ref

    def cancel(self, ref: AttemptRef, reason: str = "test") -> None:
        """Send a CANCEL."""
        self.send(Cancel(ref=ref, reason=reason))

    # --- objects ------------------------------------------------------------------------------

    def put(self, key: str, data: bytes) -> None:
        """Store an object."""
        self._s3.put_object(Bucket=self.bucket, Key=key, Body=data)

    def get(self, key: str) -> bytes:
        """Return an object's bytes."""
        body: bytes = self._s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return body

    def list(self, prefix: str) -> list[str]:
        """Return keys in order."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=prefix
        )
        return sorted(item["Key"] for page in pages for item in page.get("Contents", ()))

    def make_input(self, path: str, data: bytes, *, unpack: bool = False, **grant: Any) -> Input:
        """Store an input and grant it."""
        self.put(f"input/{path}", data)
        return Input(
            path=path,
            grant=self._grant_get(f"input/{path}").model_copy(update=grant),
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            unpack=unpack,
        )

    def read_output(self, ref: AttemptRef, path: str) -> bytes:
        """Return an uploaded output file."""
        return self.get(f"{_prefix(ref)}/{path}")

    def read_console(self, ref: AttemptRef) -> bytes:
        """Return the console; fails unless the chunks adjoin."""
        text = b""
        for key in self.list(f"{_prefix(ref)}/console/"):
            offset = int(key.rpartition("/")[2].partition(".")[0])
            assert offset == len(text), f"chunk {key} begins after {len(text)} bytes"
            text += self.get(key)
        return text

    # --- events -------------------------------------------------------------------------------

    def bodies(self, kind: type) -> list[Any]:
        """Return the bodies of one kind, in order."""
        return [event.body for event in list(self.events) if isinstance(event.body, kind)]

    @property
    def epochs(self) -> frozenset[str]:
        """Return the starts of agents that have told something so far."""
        return frozenset(str(event.header.epoch) for event in list(self.events))

    def phases(self, ref: AttemptRef) -> list[AttemptPhase]:
        """Return the phases told of an attempt, in order."""
        return [body.phase for body in self.bodies(PhaseChanged) if body.ref == ref]

    def wait_phase(self, ref: AttemptRef, phase: AttemptPhase) -> PhaseChanged:
        """Wait until an attempt's phase is told, unless another end of it is."""

        def find() -> PhaseChanged | None:
            told = self.bodies(PhaseChanged)
            return next((b for b in told if b.ref == ref and b.phase is phase), None)

        def find_other_end() -> object:
            ends = [
                b for b in self.bodies(PhaseChanged) if b.ref == ref and b.phase in FINAL_PHASES
            ]
            return self.unless() or next((f"it is {b.phase}: {b.reason}" for b in ends), None)

        what = f"{phase} of {ref.task_key}/{ref.fence} is told"
        return wait_for(what, find, unless=find_other_end)

    def wait(self, what: str, find: Callable[[], Found]) -> Found:
        """Wait until ``find`` returns something."""
        return wait_for(what, find, unless=self.unless)

    # --- inside -------------------------------------------------------------------------------

    def _url(self, queue: str) -> str:
        return f"{self.endpoint_url}/000000000000/{queue}"

    def _listen(self) -> None:
        url = self._url(self.queue_names[2])
        while not self._stopping.is_set():
            try:
                answer = self._sqs.receive_message(
                    QueueUrl=url,
                    WaitTimeSeconds=1,
                    MaxNumberOfMessages=10,
                    # What is in flight while the endpoint restarts holds up its whole group. What
                    # a busy machine is given twice for that is taken once.
                    VisibilityTimeout=3,
                )
                for message in answer.get("Messages", ()):
                    self._handle(message["Body"])
                    self._sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            except (BotoCoreError, ClientError):
                time.sleep(0.2)  # the endpoint restarts in some tests

    def _handle(self, text: str) -> None:
        self.texts.append(text)
        try:
            message = open_event(text, keys=self._server_keys, env=self.env, now=datetime.now(UTC))
        except MessageRefused as error:
            self.refused.append(str(error))
            return
        if message.header.message_id in self._seen:
            return
        self._answer(message)
        self._seen.add(message.header.message_id)
        self.events.append(message)

    def _answer(self, message: EventMessage) -> None:
        body, correlation_id = message.body, message.header.message_id
        if isinstance(body, GrantsWanted) and self.is_granting:
            grants = {w.path: self._grant(body.ref, body.purpose, w) for w in body.wants}
            answer = Grants(ref=body.ref, purpose=body.purpose, grants=grants)
            self.send(answer, correlation_id=correlation_id)
        elif isinstance(body, PullLoginWanted) and self.answer_login is not None:
            self.send(self.answer_login(body), correlation_id=correlation_id)
        elif isinstance(body, Hello) and self.expected is not None:
            self.send(Sync(expected=self.expected), correlation_id=correlation_id)
        elif isinstance(body, PhaseChanged) and self._is_to_acknowledge(body):
            self.send(Acknowledge(ref=body.ref))

    def _is_to_acknowledge(self, body: PhaseChanged) -> bool:
        return self.is_acknowledging and body.phase in FINAL_PHASES

    def _grant(self, ref: AttemptRef, purpose: GrantPurpose, want: Any) -> Grant:
        if purpose is GrantPurpose.INPUT:
            return self._grant_get(f"input/{want.path}")
        name = f"console/{want.path}.log" if purpose is GrantPurpose.CONSOLE else want.path
        checksum = base64.b64encode(bytes.fromhex(want.sha256)).decode()
        url = self._s3.generate_presigned_url(
            "put_object",
            Params={
                "Bucket": self.bucket,
                "Key": f"{_prefix(ref)}/{name}",
                "IfNoneMatch": "*",
                "ChecksumSHA256": checksum,
                "ContentLength": want.size,
            },
            ExpiresIn=self.grant_seconds,
        )
        headers = {
            "If-None-Match": "*",
            "x-amz-checksum-sha256": checksum,
            "Content-Length": str(want.size),
        }
        expires_at = datetime.now(UTC) + timedelta(seconds=self.grant_seconds)
        return Grant(method="PUT", url=url, headers=headers, expires_at=expires_at)

    def _grant_get(self, key: str) -> Grant:
        url = self._s3.generate_presigned_url(
            "get_object", Params={"Bucket": self.bucket, "Key": key}, ExpiresIn=self.grant_seconds
        )
        expires_at = datetime.now(UTC) + timedelta(seconds=self.grant_seconds)
        return Grant(method="GET", url=url, expires_at=expires_at)


def make_ref(
    submission_id: str | None = None, task_id: str = "i5", attempt: int = 1, fence: int = 1
) -> AttemptRef:
    """Build an attempt's identity; of a submission of its own unless told."""
    return AttemptRef(
        submission_id=submission_id or f"s{uuid.uuid4().hex[:8]}",
        task_id=task_id,
        attempt=attempt,
        fence=fence,
    )


def _prefix(ref: AttemptRef) -> str:
    return f"attempts/{ref.submission_id}/{ref.task_id}/{ref.attempt}-{ref.fence}"
