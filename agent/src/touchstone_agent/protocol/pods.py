"""
What the control plane and the program inside a rented pod say to each other, over SSH.

A pod has no queue: the control plane logs in, runs ``touchstone-pod`` with one of these as JSON on
its standard input, and reads one of these from its standard output. Nothing here is signed: the
pod's host key is pinned, and so is the one key that may log in. There is never a credential among
it but presigned requests, each for one object.
"""

from __future__ import annotations

import base64
import binascii
from enum import StrEnum
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from touchstone_agent.protocol.facts import (
    ExitFacts,
    Files,
    PodGpu,
    ProgressLine,
    RunnerVerdict,
    Wire,
)
from touchstone_agent.protocol.messages import (
    MAX_CHUNK_BYTES,
    MAX_GPUS,
    AttemptRef,
    Grant,
    Input,
    Limits,
    Preparation,
)
from touchstone_agent.protocol.words import (
    MAX_FILES,
    Count,
    ExitCode,
    Figure,
    Line,
    Moment,
    Name,
    SafePath,
)

POD_PROGRAM = "touchstone-pod"
"""The program in every trainer image that may run in a pod: its entry point there, and what is
called over SSH."""

POD_PROTOCOL_VERSION = 1

MAX_STATE_BYTES = 1024**2
"""What an answer may weigh beside the console that was asked for: verdict, files and progress."""

HOST_KEY_MARK = "touchstone-pod host key:"
"""What the console line begins with that names the host key's fingerprint (``SHA256:...``)."""


class PodVariable(StrEnum):
    """
    What stands in a pod's environment, where everybody who may list pods can read it.

    ``LEASE_SECONDS``: how long it lives on without hearing of the control plane.
    ``LIFE_SECONDS``: how long it lives at most, heard of or not.
    ``API_URL``: base of the API by which it ends itself.
    ``OWNER``: environment and attempt, as a stamp.
    """

    LEASE_SECONDS = "TOUCHSTONE_POD_LEASE_SECONDS"
    LIFE_SECONDS = "TOUCHSTONE_POD_LIFE_SECONDS"
    API_URL = "TOUCHSTONE_POD_API_URL"
    OWNER = "TOUCHSTONE_POD_OWNER"


class PodPhase(StrEnum):
    """
    Where the attempt in a pod is::

        idle -> preparing -> running -> exited
    """

    IDLE = "idle"
    PREPARING = "preparing"
    RUNNING = "running"
    EXITED = "exited"


def _check_base64(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("is not base64") from error
    return text


Base64 = Annotated[str, AfterValidator(_check_base64)]


class PodStart(Wire):
    """
    Run the pod's one attempt; said again, it changes nothing but the inputs' grants.

    :param ref: The attempt.
    :param command: The runner, as in the image: ``elnigma-run``.
    :param argv: Its arguments; ``{in}`` and ``{out}`` stand for the folders.
    :param environment: Environment variables of the contract; never a credential.
    :param inputs: Files to fetch first.
    :param limits: What it may use.
    :param prepare: What comes first, before any other input is there; ``None`` for nothing.
    """

    version: int = POD_PROTOCOL_VERSION
    ref: AttemptRef
    command: tuple[str, ...]
    argv: tuple[str, ...]
    environment: dict[str, str] = Field(default_factory=dict)
    inputs: tuple[Input, ...] = ()
    limits: Limits = Field(default_factory=Limits)
    prepare: Preparation | None = None

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write a start without a preparation as the version did that knew none."""
        fields: dict[str, Any] = write(self)
        if fields.get("prepare") is None:
            fields.pop("prepare", None)
        return fields


class PodPoll(Wire):
    """
    Ask how it is, and renew the lease.

    :param lease_seconds: How long the pod lives on from now without hearing again.
    :param console_offset: From which byte on the console is wanted.
    :param console_bytes: How much of it at most; 0 for none.
    """

    lease_seconds: int = Field(ge=1)
    console_offset: int = Field(default=0, ge=0)
    console_bytes: int = Field(default=MAX_CHUNK_BYTES, ge=0)


class PodState(Wire):
    """
    How the attempt in a pod is; the answer to :class:`PodStart` and :class:`PodPoll`.

    :param boot_id: Changes when the container is started again.
    :param ref: The attempt that was started; ``None`` before one was.
    :param phase: Where it is.
    :param prepared_at: When its inputs were in place, by the pod's clock, UTC.
    :param running_at: When its runner began.
    :param exited_at: When its runner had ended.
    :param exit_code: The runner's exit code; ``None`` if it was never seen, or never ran.
    :param oom_killed: Whether the kernel ended it for memory.
    :param problem: Why it could not be run, or has no usable verdict; one line.
    :param is_submissions_fault: Whether ``problem`` is about the content itself, which no other
        pod would take either.
    :param wants_grants: Paths of inputs whose grants the store refuses (any more).
    :param verdict: The runner's verdict.json.
    :param files: What it lists, checked.
    :param progress: The trainer's latest progress line, as it stands in progress.jsonl.
    :param console_size: Bytes of console written so far.
    :param console: Base64 of the bytes that were asked for.
    :param gpus: What ``nvidia-smi`` tells: ``name``, ``memory_mib``, ``driver`` each.
    :param disk_free_bytes: What is left of the disk where the attempt works.
    :param lease_seconds_left: Until the pod ends itself, unless it hears again.
    """

    version: int = Field(default=POD_PROTOCOL_VERSION, ge=1, le=1000)
    boot_id: Name
    ref: AttemptRef | None = None
    phase: PodPhase = PodPhase.IDLE
    prepared_at: Moment | None = None
    running_at: Moment | None = None
    exited_at: Moment | None = None
    exit_code: ExitCode | None = None
    oom_killed: bool = False
    problem: Line | None = None
    is_submissions_fault: bool = False
    wants_grants: tuple[SafePath, ...] = Field(default=(), max_length=MAX_FILES)
    verdict: RunnerVerdict | None = None
    files: Files = ()
    progress: ProgressLine | None = None
    console_size: Count = 0
    console: Base64 = ""
    gpus: tuple[PodGpu, ...] = Field(default=(), max_length=MAX_GPUS)
    disk_free_bytes: Count = 0
    lease_seconds_left: Figure = 0

    @property
    def console_data(self) -> bytes:
        """Return the bytes of console that were asked for."""
        return base64.b64decode(self.console)

    @property
    def exit_facts(self) -> ExitFacts:
        """Return how the attempt has ended."""
        return ExitFacts(
            exit_code=self.exit_code,
            oom_killed=self.oom_killed,
            verdict=self.verdict,
            no_verdict=self.problem,
            files=self.files,
        )


class PodUpload(Wire):
    """
    Store output files.

    :param grants: Leave for each, by its path in the verdict.
    """

    grants: dict[str, Grant]


class PodUploadReport(Wire):
    """
    What became of them; what is in none of the three is still to be tried.

    :param uploaded: Paths that are in the store now.
    :param expired: Paths whose grants the store refuses: ask for others.
    :param failed: Reason by path, for what will never be stored.
    """

    uploaded: tuple[SafePath, ...] = Field(default=(), max_length=MAX_FILES)
    expired: tuple[SafePath, ...] = Field(default=(), max_length=MAX_FILES)
    failed: dict[SafePath, Line] = Field(default_factory=dict, max_length=MAX_FILES)


def compute_answer_limit(message: Wire) -> int:
    """Return the most bytes that an answer to a message can have; what has more is none."""
    asked = message.console_bytes if isinstance(message, PodPoll) else 0
    return MAX_STATE_BYTES + asked * 4 // 3 + 4
