"""What is on record of a server: what it tells, what people decided, what it has refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import BeforeValidator, Field, JsonValue, ValidationError

from touchstone.core.records.actions import Action
from touchstone.core.records.kept import KeptRecord, Part
from touchstone.core.records.stored import RecordUnreadable, Time
from touchstone_agent.protocol.images import ServerImage
from touchstone_agent.protocol.messages import AttemptPhase, AttemptRef, Refusal, SlotClass
from touchstone_agent.protocol.private import HeldData

Number = int | float
"""A number that stays as it is stored: 24 and 24.0 are two texts where JSON goes out."""

FROM_HEARTBEATS: Final = frozenset({"heartbeat_at", "epoch", "inventory", "running"})
"""Fields that each heartbeat writes anew, whatever stood there."""


class EnrolmentState(StrEnum):
    """How far a server is."""

    BEGUN = "begun"
    ENROLLED = "enrolled"
    REMOVING = "removing"
    REMOVED = "removed"


class StoredGpu(Part):
    """
    A GPU of a server, or a slice of one, as the server's agent told of it last.

    :param name: Its model.
    :param memory_mib: Its memory, MiB.
    :param index: Its number there.
    :param uuid: Its own id.
    :param driver: Version of its driver; ``None`` from agents that do not tell it.
    :param shares: How many attempts it is handed to at a time; ``None`` for one.
    """

    name: str | None = None
    memory_mib: Number | None = None
    index: int | None = None
    uuid: str | None = None
    driver: str | None = None
    shares: int | None = None


class StoredInventory(Part):
    """
    What a server is, by its agent's last word; ``None`` for what an older agent does not tell.

    :param slots: Training slots.
    :param validation_slots: Validation slots.
    :param runtime: ``docker`` or ``process``.
    :param agent_version: Version of the agent.
    :param cpus: CPUs.
    :param memory_mib: Memory, MiB.
    :param disk_free_mib: Disk that is free for attempts, MiB.
    :param gpus: GPUs.
    :param images: What its engine knows of images; one that makes no sense is kept, and not read.
    :param private_data: The private data sets that it holds; likewise.
    """

    slots: int | None = None
    validation_slots: int | None = None
    runtime: str | None = None
    agent_version: str | None = None
    cpus: int | None = None
    memory_mib: Number | None = None
    disk_free_mib: Number | None = None
    gpus: tuple[StoredGpu, ...] = ()
    images: tuple[Annotated[ServerImage | JsonValue, Field(union_mode="left_to_right")], ...] = ()
    private_data: tuple[
        Annotated[HeldData | JsonValue, Field(union_mode="left_to_right")], ...
    ] = ()


class DeclaredServer(Part):
    """
    What the fleet file says of a server; the fields are those of its entry there.

    :param slots: Trainings at a time; ``None`` for what its agent takes.
    :param validation_slots: The same of validations.
    """

    description: str = ""
    priority: int = 0
    slots: int | None = None
    validation_slots: int | None = None
    cuda: bool | None = None
    vram_gib: Number | None = None
    ram_gib: Number | None = None
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    gpu_price_per_hour: Number | None = None


class Drained(Part):
    """
    That a server was drained.

    :param slots: Slots that its pool for trainings had.
    :param validation_slots: The same of its pool for validations.
    :param by: Who drained it.
    :param at: When.
    """

    slots: int = 0
    validation_slots: int = 0
    by: str | None = None
    at: Time | None = None


class ServerHold(Part):
    """
    What a server is not asked for, for a while.

    :param key: Tells it from the server's other ones; it is stored under this key, not in it.
    :param refusal: What the server said; ``None`` for an agent that gives only a reason.
    :param until: Until when.
    :param reason: The server's own words.
    :param kind: The kind of tasks that it holds for; ``None`` for both.
    :param image: The container image that it holds for; ``None`` for all.
    :param label: The label of tasks that it holds for, as ``user:<name>``; ``None`` for all.
    :param times: How many times in a row.
    :param is_told: Whether the admins were written to.
    """

    key: str = Field(exclude=True)
    refusal: Refusal | None = None
    until: Time
    reason: str
    kind: SlotClass | None = None
    image: str | None = None
    label: str | None = None
    times: int = 1
    is_told: bool = False


def _read_holds(stored: object) -> object:
    if not isinstance(stored, Mapping):
        return stored
    return {key: _read_hold(key, item) for key, item in stored.items()}


def _read_hold(key: object, item: object) -> object:
    """Return a hold; as it is stored, if it makes no sense: that one hides no other."""
    if isinstance(item, ServerHold) or not isinstance(item, Mapping):
        return item
    try:
        return ServerHold.model_validate({**item, "key": key})
    except ValidationError:
        return item


class Enrolment(Part):
    """
    How a server was enrolled, and how far it is.

    :param state: How far.
    :param by: Who enrolled it.
    :param at: When that began.
    :param ssh_conn_id: Airflow connection by which it is set up; ``None`` where its owner did it.
    :param version: Version of the agent that it was to run.
    :param state_dir: Where its agent keeps its state.
    :param has_service: Whether systemd starts its agent.
    :param python: Command of the Python that runs it.
    :param is_now: Whether what runs there is given up, for one that is being removed.
    :param left: How much is still at work there, for one that is being removed.
    """

    state: EnrolmentState
    by: str | None = None
    at: Time | None = None
    ssh_conn_id: str | None = None
    version: str | None = None
    state_dir: str | None = None
    has_service: bool = True
    python: str | None = None
    is_now: bool = False
    left: int | None = None


class WorkLease(Part):
    """
    That somebody sets a server up, or removes it, right now.

    :param token: Of that work alone.
    :param by: Whose work.
    :param until: How long others keep away without a word.
    """

    token: str
    by: str
    until: Time


def _drop_empty(stored: object) -> object:
    return stored or None


OrNone = BeforeValidator(_drop_empty)
"""An empty object says as little as none."""

Running = tuple[AttemptRef, AttemptPhase]


class Server(KeptRecord):
    """
    A server's record.

    :param server: Its name.
    :param env: The environment that it works for; ``None`` for whichever has its record.
    :param public_key: The key that its agent signs with, base64.
    :param heartbeat_at: When its last heartbeat was taken in.
    :param epoch: Which start of its agent that was of.
    :param inventory: What it is, by that heartbeat.
    :param running: What it runs, by that heartbeat; an item that makes no sense is kept, not read.
    :param declared: What the fleet file says of it.
    :param drained: That it is drained.
    :param holds: What it has refused, by what is held for it; one that makes no sense is kept, and
        not read.
    :param staged_images: When it was asked last to have an image, by the image.
    :param enrolment: How it was enrolled; ``None`` for one that was made known by its key alone.
    :param worked_on: Who sets it up, or removes it.
    :param actions: Who did what to it, when; the newest last.
    """

    server: str
    env: str | None = None
    public_key: str | None = None
    heartbeat_at: Time | None = None
    epoch: str | None = None
    inventory: Annotated[StoredInventory | None, OrNone] = None
    running: (
        tuple[Annotated[Running | JsonValue, Field(union_mode="left_to_right")], ...] | None
    ) = None
    declared: Annotated[DeclaredServer | None, OrNone] = None
    drained: Annotated[Drained | None, OrNone] = None
    holds: Annotated[
        Mapping[str, Annotated[ServerHold | JsonValue, Field(union_mode="left_to_right")]] | None,
        BeforeValidator(_read_holds),
    ] = None
    staged_images: Mapping[str, Time] | None = None
    enrolment: Annotated[Enrolment | None, OrNone] = None
    worked_on: Annotated[WorkLease | None, OrNone] = None
    actions: tuple[Action, ...] | None = None

    @property
    def state(self) -> EnrolmentState | None:
        """Return how far it is; ``None`` for one that was made known by its key alone."""
        return self.enrolment.state if self.enrolment else None

    @property
    def gpus(self) -> tuple[StoredGpu, ...]:
        """Return its GPUs; none before its agent's first word."""
        return self.inventory.gpus if self.inventory else ()

    @classmethod
    def load(cls, stored: Mapping[str, object], *, renewed: Collection[str] = ()) -> Self:
        """
        Parse a stored record.

        :param stored: Plain JSON values.
        :param renewed: Fields that are about to be written anew: they are left out of a record
            that makes no sense with them.
        :raises RecordUnreadable: Naming the server, and the first field that does not make sense.
        """
        try:
            return super().load(stored)
        except RecordUnreadable as error:
            if not any(name in stored for name in renewed):
                raise RecordUnreadable(f"server {stored.get('server')}: {error}") from error
            kept = {name: value for name, value in stored.items() if name not in renewed}
            return cls.load(kept)


@dataclass(frozen=True, kw_only=True)
class ServerEntry:
    """
    A server in the list of all: it exists, also where nobody can make sense of its record.

    :param name: Its name.
    :param stored: Its record, as it is stored.
    :param server: Its record; ``None`` if that makes no sense.
    :param problem: Why it makes none.
    """

    name: str
    stored: Mapping[str, JsonValue]
    server: Server | None
    problem: str | None = None

    @classmethod
    def parse(cls, stored: Mapping[str, JsonValue]) -> Self:
        """Return a stored record of the list, whether or not it makes sense."""
        name = str(stored["server"])
        try:
            return cls(name=name, stored=stored, server=Server.load(stored))
        except RecordUnreadable as error:
            return cls(name=name, stored=stored, server=None, problem=str(error))

    def read(self, *, renewed: Collection[str] = ()) -> Server:
        """
        Return the record.

        :param renewed: As for :meth:`Server.load`.
        :raises RecordUnreadable: If it makes no sense. Nobody may act then as if there were no
            such server.
        """
        if self.server is not None:
            return self.server
        if renewed:
            return Server.load(self.stored, renewed=renewed)
        raise RecordUnreadable(str(self.problem))

    @property
    def env(self) -> str | None:
        """Return its environment, which is known of a record that makes no sense elsewhere."""
        env = self.stored.get("env")
        return None if env is None else str(env)

    @property
    def public_key(self) -> str | None:
        """Return its key, which is known of a record that makes no sense elsewhere."""
        key = self.stored.get("public_key")
        return str(key) if key else None
