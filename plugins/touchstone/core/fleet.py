"""The fleet file: which servers there are, what each may run, and who gets how much of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, ValidationError

from touchstone.core.documents import Line, Pattern, explain, read_toml, shorten
from touchstone.core.pools import RUNPOD_POOL
from touchstone.core.records.servers import DeclaredServer
from touchstone_agent.protocol.errors import ConfigurationError

SCHEMA_VERSION = 1
WHAT = "fleet file"

MAX_SERVERS = 1000
MAX_SLOTS = 1000
MAX_PODS = 10_000
MAX_WEIGHT = 1000
MAX_WEIGHTS = 1000

_SERVER = re.compile(r"[a-z0-9][a-z0-9-]{0,59}")
_PATTERNS = 100

Slots = Annotated[int, Field(strict=True, ge=0, le=MAX_SLOTS)]
Priority = Annotated[int, Field(strict=True, ge=-1000, le=1000)]
Gib = Annotated[float, Field(strict=True, ge=0, le=65_536, allow_inf_nan=False)]
Environment = Annotated[str, Field(strict=True, pattern=r"^[a-z][a-z0-9]{1,11}$")]
Price = Annotated[float, Field(strict=True, ge=0, le=10_000, allow_inf_nan=False)]
Weight = Annotated[float, Field(strict=True, gt=0, le=MAX_WEIGHT, allow_inf_nan=False)]


def _check_distinct(value: tuple[str, ...]) -> tuple[str, ...]:
    twice = next((item for place, item in enumerate(value) if item in value[:place]), None)
    if twice is not None:
        raise ValueError(f"{twice!r} stands there twice; keep one")
    return value


Patterns = Annotated[
    tuple[Pattern, ...], Field(max_length=_PATTERNS), AfterValidator(_check_distinct)
]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Capabilities(_Table):
    """
    What a server can do, as its owner says; what it detects itself counts where that is less.

    :param cuda: Whether it has CUDA GPUs; ``None`` for what it detects.
    :param vram_gib: Memory of one of its GPUs, GiB; ``None`` for what it detects.
    :param ram_gib: Its memory, GiB; ``None`` for what it detects.
    """

    cuda: StrictBool | None = None
    vram_gib: Gib | None = None
    ram_gib: Gib | None = None


class Defaults(_Table):
    """
    What holds for a server that says nothing else.

    :param priority: Servers of a higher one are filled first.
    :param slots: Trainings at a time when its pool is made; ``None`` for what its agent takes.
    :param validation_slots: The same of validations, which have slots of their own.
    :param allow: Patterns of the labels that may run; empty for all.
    :param deny: Patterns of the labels that may not; outranks ``allow``.
    :param gpu_price_per_hour: What an hour of one of its GPUs costs its owner, USD; ``None`` if
        that is not to be told.
    :param env: The environment a server belongs to; ``None`` for whichever reads the file.
    """

    priority: Priority = 0
    slots: Slots | None = None
    validation_slots: Slots | None = None
    allow: Patterns = ()
    deny: Patterns = ()
    gpu_price_per_hour: Price | None = None
    env: Environment | None = None


class ServerSpec(Defaults):
    """
    One server as the file has it, with the defaults filled in.

    :param description: What it is, for people.
    :param capabilities: What it can do, as its owner says.
    """

    description: Line = ""
    capabilities: Capabilities = Capabilities()

    def build_declared(self) -> DeclaredServer:
        """Return what the server's record keeps of this."""
        return DeclaredServer(
            description=self.description,
            priority=self.priority,
            slots=self.slots,
            validation_slots=self.validation_slots,
            **dict(self.capabilities),
            allow=self.allow,
            deny=self.deny,
            gpu_price_per_hour=self.gpu_price_per_hour,
        )


class RunPodSpec(_Table):
    """
    RunPod.

    :param slots: Pods at a time; 0 rents none.
    """

    slots: int = Field(default=0, strict=True, ge=0, le=MAX_PODS)


class Fleet(_Table):
    """
    A checked fleet file.

    :param schema_version: Version of its form.
    :param defaults: What holds for servers that say nothing else.
    :param servers: The servers by name.
    :param runpod: RunPod.
    :param weights: Share of each submitter relative to the others'; 1 for those not named.
    """

    schema_version: int
    defaults: Defaults = Defaults()
    servers: dict[str, ServerSpec] = Field(default_factory=dict, max_length=MAX_SERVERS)
    runpod: RunPodSpec = RunPodSpec()
    weights: dict[Line, Weight] = Field(default_factory=dict, max_length=MAX_WEIGHTS)


_KNOWN = frozenset(
    name
    for model in (Fleet, ServerSpec, Capabilities, RunPodSpec)
    for name in model.model_fields
)  # fmt: skip


def parse_fleet(text: str) -> Fleet:
    """
    Check a fleet file.

    :param text: TOML.
    :return: The fleet; every server has the file's defaults where it says nothing itself.
    :raises ConfigurationError: Naming the first field that is wrong, and the way out.
    """
    document = read_toml(text, what=WHAT, version=SCHEMA_VERSION)
    servers = document.get("servers", {})
    if isinstance(servers, dict):
        _check_names(servers)
    try:
        # By itself first: an error of the defaults is not each server's.
        defaults = Defaults.model_validate(document.get("defaults", {}))
    except ValidationError as error:
        place = ("defaults", *error.errors()[0]["loc"])
        raise ConfigurationError(explain(error, known=_KNOWN, location=place)) from error
    try:
        fleet = Fleet.model_validate(_fill_in(document, defaults))
    except ValidationError as error:
        message = explain(error, known=_KNOWN)
        if message.endswith("slots: -1 is below 0"):
            message += "; 0 lets nothing start, and only Touchstone's own pools are unlimited"
        raise ConfigurationError(message) from error
    for name, server in fleet.servers.items():
        _check_policy(name, server)
    return fleet


def check_server_name(name: str) -> None:
    """
    Check that a name can be a server's: it is also that of a pool, two queues and containers.

    :raises ConfigurationError: If it cannot.
    """
    place = f"servers.{name}" if _SERVER.fullmatch(name) else f"servers: {shorten(name)}"
    if name == RUNPOD_POOL or name.startswith("touchstone_") or name.endswith("_validation"):
        raise ConfigurationError(
            f"{place}: is a name that Touchstone keeps for itself: {RUNPOD_POOL}, touchstone_* "
            "and *_validation; call the server something else"
        )
    if not _SERVER.fullmatch(name):
        raise ConfigurationError(
            f"{place} cannot be a server's name: up to 60 of a-z, 0-9 and '-', "
            "and '-' not at the beginning"
        )


def _check_names(servers: Mapping[str, object]) -> None:
    by_folded: dict[str, str] = {}
    for name in servers:
        other = by_folded.setdefault(name.casefold(), name)
        if other != name:
            raise ConfigurationError(
                f"servers: {shorten(other)} and {shorten(name)} are one name to a pool or a queue; "
                "keep one of the two"
            )
    for name in servers:
        check_server_name(name)


def _fill_in(document: Mapping[str, object], defaults: Defaults) -> dict[str, object]:
    servers = document.get("servers", {})
    if not isinstance(servers, dict):
        return dict(document)
    given = defaults.model_dump()
    filled = {
        name: {**given, **server} if isinstance(server, dict) else server
        for name, server in servers.items()
    }
    return {**document, "defaults": defaults, "servers": filled}


def _check_policy(name: str, server: ServerSpec) -> None:
    both = sorted(set(server.allow) & set(server.deny))
    if both:
        raise ConfigurationError(
            f"servers.{name}.deny: {both[0]!r} is in allow as well; keep it in one of the two"
        )
