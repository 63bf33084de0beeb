"""
The bodies of all messages, version 1.

Control plane to agent: :class:`Start` on the request queue; :class:`Cancel`, :class:`Grants`,
:class:`Stage`, :class:`PullLogin`, :class:`Acknowledge` and :class:`Sync` on the control queue, so
that a cancel never stands behind a start. Agent to control plane, on the event queue: everything
else.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from touchstone_agent.protocol.facts import ServerGpu, Wire
from touchstone_agent.protocol.images import ServerImage
from touchstone_agent.protocol.names import build_container_name
from touchstone_agent.protocol.private import HeldData, PrivateData
from touchstone_agent.protocol.words import (
    AnyNumber,
    AnyPhrase,
    Count,
    Figures,
    Identifier,
    ImageName,
    Line,
    Moment,
    Name,
    Percent,
    Serial,
)

PROTOCOL_VERSION = 1
MAX_WANTS = 250
"""Leave for more would not fit into one answer."""

MAX_WANTS = 1000
MAX_RUNNING = 1000
MAX_KEY = 100
MAX_SEALED = 16 * 1024
MAX_STAGED = 8
MAX_GPUS = 64
MAX_IMAGES = 16
MAX_HELD = 16

MAX_CHUNK_BYTES = 256 * 1024
"""No piece of a console that is stored at once is longer: a reader that goes on from an offset need
not look further back than that."""


class SlotClass(StrEnum):
    """Which of a server's slots an attempt takes; trainings never take a validation slot."""

    TRAINING = "training"
    VALIDATION = "validation"


class AttemptRef(Wire):
    """
    The identity of one attempt.

    :param submission_id: The submission.
    :param task_id: ``validation``, or ``i<interval>``; unique within the submission.
    :param attempt: Airflow's try number, from 1.
    :param fence: Number of this attempt among all of the task; a higher one outranks a lower.
    """

    submission_id: Identifier
    task_id: Identifier
    attempt: Serial
    fence: Serial

    @property
    def task_key(self) -> str:
        """Identify the task across its attempts; the message group of everything about it."""
        return f"{self.submission_id}/{self.task_id}"

    def container_name(self, env: str) -> str:
        """Return the name of this attempt's container in environment ``env``."""
        return build_container_name(env, self.submission_id, self.task_id, self.attempt, self.fence)


class Grant(Wire):
    """
    Leave to move one object: a presigned request, and nothing more.

    :param method: ``GET`` or ``PUT``.
    :param url: The presigned URL; a secret until it expires.
    :param headers: Headers that were signed and must be sent as they are.
    :param expires_at: When the store will stop honouring it.
    """

    method: Literal["GET", "PUT"]
    url: str
    headers: dict[str, str] = Field(default_factory=dict)
    expires_at: Moment


class Input(Wire):
    """
    One file that the agent fetches before the container starts.

    :param path: Where it goes below the attempt's input folder. With ``unpack``, the folder that
        receives the archive's members.
    :param sha256: Hex digest that the fetched bytes must have.
    :param size: Size in bytes.
    :param unpack: Whether the file is a ``.tar.gz`` to be unpacked (members outside the folder,
        links and devices are refused).
    """

    path: str
    grant: Grant
    sha256: str
    size: int = Field(ge=0)
    unpack: bool = False


class Limits(Wire):
    """
    What an attempt may use; exceeding one ends it with that reason.

    :param cpus: CPUs, may be a fraction.
    :param memory_mib: Memory of all its processes together, MiB.
    :param pids: Processes and threads at once.
    :param wall_seconds: Seconds from container start.
    :param cpu_seconds: CPU seconds of all its processes; ``None`` for no limit.
    :param console_bytes: Bytes of console kept; the middle of anything longer is dropped and
        counted.
    :param output_bytes: Bytes of all output files together.
    """

    cpus: float = Field(default=1.0, gt=0, le=10_000)
    memory_mib: int = Field(default=4096, ge=64, le=2**40)
    pids: int = Field(default=512, ge=16, le=2**22)
    wall_seconds: int = Field(default=86_400, ge=1, le=10**9)
    cpu_seconds: int | None = Field(default=None, ge=1, le=10**9)
    # Keys of a console's chunks have twelve digits.
    console_bytes: int = Field(default=8 * 1024**2, ge=4096, le=10**11)
    output_bytes: int = Field(default=1024**3, ge=4096, le=2**50)


# --- control plane to agent -------------------------------------------------------------------


class Preparation(Wire):
    """
    What is made ready before an attempt begins, with the network and without submitted code.

    :param argv: Arguments to the image's entry point.
    :param inputs: Paths of the only inputs that it gets.
    """

    argv: tuple[str, ...]
    inputs: tuple[str, ...]


class Start(Wire):
    """
    Run one attempt.

    :param ref: Which attempt. A START for a fence at or below one already seen for the task is
        refused; one above it ends the older attempt.
    :param slot_class: The kind of slot it takes.
    :param image: Container image, by tag or digest.
    :param argv: Arguments to the image's entry point; ``{in}`` and ``{out}`` stand for the input
        and output folders, whatever they are called where it runs.
    :param environment: Environment variables; never a credential.
    :param inputs: Files to fetch first.
    :param limits: What it may use.
    :param network: Whether the container may use the network. Always ``False`` from a control
        plane that knows ``prepare``: what has the network runs no submitted code.
    :param gpus: GPUs to hand over.
    :param prepare: What comes first; ``None`` for nothing. An agent that does not know it runs the
        attempt without the network and without what would have been prepared.
    :param requires_gpu: Whether it must not compute on the CPU in place of a GPU. An agent that
        does not know it hands a GPU over all the same.
    :param private_data: The data set that it is given from this server's own folders. Then nothing
        that it leaves is sent: no file, no console, no progress, no words of its runner's.
    """

    kind: Literal["start"] = "start"
    ref: AttemptRef
    slot_class: SlotClass
    image: str
    argv: tuple[str, ...]
    environment: dict[str, str] = Field(default_factory=dict)
    inputs: tuple[Input, ...] = ()
    limits: Limits = Field(default_factory=Limits)
    network: bool = False
    gpus: int = Field(default=0, ge=0)
    prepare: Preparation | None = None
    requires_gpu: bool = False
    private_data: PrivateData | None = None

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write what a START does not ask for as the versions did that did not know of it."""
        fields: dict[str, Any] = write(self)
        if fields.get("prepare") is None:
            fields.pop("prepare", None)
        if not fields.get("requires_gpu"):
            fields.pop("requires_gpu", None)
        if fields.get("private_data") is None:
            fields.pop("private_data", None)
        return fields


class Cancel(Wire):
    """
    End one attempt, and every older one of the task; not started yet, it never starts.

    :param ref: The newest attempt that must end.
    :param reason: Who asked and why, for the log.
    """

    kind: Literal["cancel"] = "cancel"
    ref: AttemptRef
    reason: str


class Grants(Wire):
    """
    Answer to :class:`GrantsWanted`.

    :param ref: The attempt that asked.
    :param purpose: As asked.
    :param grants: A grant by path, as asked.
    :param refused: Reason by path, for those that are not given (for example: a newer fence).
    """

    kind: Literal["grants"] = "grants"
    ref: AttemptRef
    purpose: GrantPurpose
    grants: dict[str, Grant] = Field(default_factory=dict)
    refused: dict[str, str] = Field(default_factory=dict)


class Stage(Wire):
    """
    Have these images: tasks that wait are going to need them.

    Nobody waits for an answer. What is not allowed, or cannot be pulled now, is left.

    :param images: Images, by content.
    """

    kind: Literal["stage"] = "stage"
    images: tuple[ImageName, ...] = Field(max_length=MAX_STAGED)


class PullLogin(Wire):
    """
    Answer to :class:`PullLoginWanted`.

    :param ref: The attempt that asked; ``None`` for an image of :class:`Stage`.
    :param public_key: As asked; it names the pull.
    :param sealed: A :class:`~touchstone_agent.protocol.logins.RegistryLogin`, sealed to that key;
        ``None`` for a registry that lets everybody pull.
    :param problem: One line: why there is no answer now; ``None`` if there is one.
    """

    kind: Literal["pull_login"] = "pull_login"
    ref: AttemptRef | None = None
    public_key: str = Field(max_length=MAX_KEY)
    sealed: str | None = Field(default=None, max_length=MAX_SEALED)
    problem: Line | None = None


class Acknowledge(Wire):
    """
    The attempt's end is on record; the agent may forget it and remove its files.

    :param ref: The attempt.
    """

    kind: Literal["acknowledge"] = "acknowledge"
    ref: AttemptRef


class Sync(Wire):
    """
    Answer to :class:`Hello`: what the control plane believes this server runs.

    The agent ends what it runs and is not in the list (quarantine first), and reports as
    ``lost`` what is in the list and it does not have.

    :param expected: Attempts believed to be on this server and not ended.
    """

    kind: Literal["sync"] = "sync"
    expected: tuple[AttemptRef, ...] = ()


# --- agent to control plane -------------------------------------------------------------------


class AttemptPhase(StrEnum):
    """
    Where an attempt is, as its agent tells it::

        accepted -> preparing -> running -> exited -> uploaded
            any of the first three -> cancelled | lost
        rejected

    ``exited`` frees the slot. ``uploaded``, ``rejected``, ``cancelled`` and ``lost`` are final.
    """

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    PREPARING = "preparing"
    RUNNING = "running"
    EXITED = "exited"
    UPLOADED = "uploaded"
    CANCELLED = "cancelled"
    LOST = "lost"


FINAL_PHASES = frozenset(
    {AttemptPhase.REJECTED, AttemptPhase.UPLOADED, AttemptPhase.CANCELLED, AttemptPhase.LOST}
)


class Refusal(StrEnum):
    """
    Why an agent does not take a START, for the placement of the next one.

    ``full``: no slot, or no GPU, is free now. ``disk``, ``image`` and ``gpu``: what this server
    lacks for it; of GPUs also one that is broken, or that a process of somebody else uses.
    ``data``: the private data set that it names. ``fence`` and ``name``: what is wrong with the
    START itself. ``drained``: this server takes none of its kind.
    """

    FULL = "full"
    DISK = "disk"
    IMAGE = "image"
    GPU = "gpu"
    DATA = "data"
    FENCE = "fence"
    NAME = "name"
    DRAINED = "drained"


class GrantPurpose(StrEnum):
    """What a grant is for; decides the bucket and the key."""

    INPUT = "input"
    OUTPUT = "output"
    CONSOLE = "console"


class PhaseChanged(Wire):
    """
    An attempt went on to another phase.

    :param ref: The attempt.
    :param phase: The phase it is in now.
    :param at: When, by the agent's clock, UTC.
    :param reason: One line: why it was rejected, cancelled or lost; ``None`` otherwise.
    :param details: Facts of the phase; their model reads those that are kept.
        ``preparing``: :class:`~touchstone_agent.protocol.facts.PreparedFacts`. ``running``:
        ``container``, ``runtime``. ``exited``: :class:`~touchstone_agent.protocol.facts.ExitFacts`.
        ``uploaded``: those of ``exited`` again, ``uploaded`` (paths), ``failed`` (reason by path);
        with private data ``judged`` instead of both, a
        :class:`~touchstone_agent.protocol.private.ServerJudged`.
        ``rejected``, and ``lost`` before anything ran: ``refusal`` (a :class:`Refusal`; absent
        where nobody knows, and from agents that do not tell it yet).
    """

    kind: Literal["phase"] = "phase"
    ref: AttemptRef
    phase: AttemptPhase
    at: Moment
    reason: Line | None = None
    details: dict[str, Any] = Field(default_factory=dict)


class Progress(Wire):
    """
    The trainer's latest progress line, relayed at most every few seconds.

    :param ref: The attempt.
    :param at: When, UTC.
    :param phase: What the trainer is doing, in its own words.
    :param percent: 0 to 100.
    :param eta_seconds: Seconds it expects to need still; ``None`` if it cannot tell.
    :param metrics: Intermediate figures by name.
    :param console_bytes: Bytes of console written so far.
    """

    kind: Literal["progress"] = "progress"
    ref: AttemptRef
    at: Moment
    phase: AnyPhrase
    percent: Percent
    eta_seconds: AnyNumber = None
    metrics: Figures = Field(default_factory=dict)
    console_bytes: Count = 0


class Want(Wire):
    """
    One object an agent wants to move.

    :param path: Output path, input path, or for the console the zero-padded byte offset. One that
        is none of these is refused by name, so that the agent does not ask for ever.
    :param sha256: Hex digest of the bytes to be uploaded; empty for an input.
    :param size: Size in bytes.
    """

    path: str = Field(max_length=4096)
    sha256: str = Field(default="", max_length=64)
    size: Count = 0


class GrantsWanted(Wire):
    """
    Ask for presigned requests; the answer is :class:`Grants`.

    :param ref: The attempt.
    :param purpose: What they are for.
    :param wants: The objects.
    """

    kind: Literal["grants_wanted"] = "grants_wanted"
    ref: AttemptRef
    purpose: GrantPurpose
    wants: tuple[Want, ...] = Field(max_length=MAX_WANTS)


class PullLoginWanted(Wire):
    """
    Ask who may pull an image; the answer is :class:`PullLogin`.

    :param ref: The attempt that runs it; ``None`` for an image of :class:`Stage`.
    :param image: The image, as in START or :class:`Stage`.
    :param public_key: X25519, base64: the answer is sealed to it. Each pull has one of its own.
    """

    kind: Literal["pull_login_wanted"] = "pull_login_wanted"
    ref: AttemptRef | None = None
    image: ImageName
    public_key: str = Field(max_length=MAX_KEY)


class Inventory(Wire):
    """
    What a server is and runs.

    :param slots: Training slots.
    :param validation_slots: Validation slots.
    :param runtime: ``docker`` or ``process``.
    :param agent_version: Version of the agent.
    :param cpus: CPUs detected.
    :param memory_mib: Memory detected, MiB.
    :param disk_free_mib: Disk that is free for attempts now, MiB; ``None`` from agents that do not
        tell it yet.
    :param gpus: GPUs detected, each slice of a split one for itself.
    :param running: Attempts that have not reached a final phase, with that phase.
    :param images: What its engine knows of images that it may run, as far as its settings name any
        without a pattern; none from agents that do not tell it yet.
    :param private_data: The private data sets that its settings name.
    """

    slots: int = Field(ge=0, le=10_000)
    validation_slots: int = Field(ge=0, le=10_000)
    runtime: Name
    agent_version: Name
    cpus: int = Field(ge=0, le=100_000)
    memory_mib: int = Field(ge=0, le=2**40)
    disk_free_mib: int | None = Field(default=None, ge=0, le=2**50)
    gpus: tuple[ServerGpu, ...] = Field(default=(), max_length=MAX_GPUS)
    running: tuple[tuple[AttemptRef, AttemptPhase], ...] = Field(default=(), max_length=MAX_RUNNING)
    images: tuple[ServerImage, ...] = Field(default=(), max_length=MAX_IMAGES)
    private_data: tuple[HeldData, ...] = Field(default=(), max_length=MAX_HELD)

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write one that knows of no image, or disk, as the versions did that told of none."""
        fields: dict[str, Any] = write(self)
        if fields.get("disk_free_mib") is None:
            fields.pop("disk_free_mib", None)
        if not fields.get("images"):
            fields.pop("images", None)
        if not fields.get("private_data"):
            fields.pop("private_data", None)
        return fields


class Hello(Wire):
    """
    The agent has started; answered by :class:`Sync`.

    :param inventory: What it is and runs.
    """

    kind: Literal["hello"] = "hello"
    inventory: Inventory


class Heartbeat(Wire):
    """
    This server is alive, with its inventory.

    :param inventory: What it is and runs.
    """

    kind: Literal["heartbeat"] = "heartbeat"
    inventory: Inventory


class Poison(Wire):
    """
    A message on this agent's queue could not be used and was dropped.

    :param reason: Why, in one line.
    :param message_id: The queue's id of it.
    """

    kind: Literal["poison"] = "poison"
    reason: Line
    message_id: Name


Command = Annotated[
    Start | Stage | Cancel | Grants | PullLogin | Acknowledge | Sync, Field(discriminator="kind")
]
Event = Annotated[
    PhaseChanged | Progress | GrantsWanted | PullLoginWanted | Hello | Heartbeat | Poison,
    Field(discriminator="kind"),
]

Grants.model_rebuild()
