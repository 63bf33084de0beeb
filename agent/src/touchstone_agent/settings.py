"""The agent's settings: one TOML file, checked before anything starts."""

from __future__ import annotations

import os
import socket
import stat
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from touchstone_agent.protocol.envelope import load_private_key, load_public_key
from touchstone_agent.protocol.errors import ConfigurationError
from touchstone_agent.protocol.facts import MAX_GPU_SHARES
from touchstone_agent.protocol.messages import MAX_HELD
from touchstone_agent.protocol.names import (
    build_control_queue,
    build_event_queue,
    build_request_queue,
)
from touchstone_agent.protocol.private import DataName, DataVersion, HeldData
from touchstone_agent.protocol.words import Sha256

CONTROL_KID = "control"
"""Name of the key that signs commands."""

SERVER_VARIABLE = "TOUCHSTONE_SERVER"
OWNERS_FILE = "private.toml"
"""What a server's owner writes beside the settings, which an enrolment writes anew."""
_OWNERS_KEYS = ("judge", "private_data")

Environment = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]{1,11}$")]
ImagePattern = Annotated[str, StringConstraints(pattern=r"^\S{1,512}$")]
ServerName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,59}$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SqsSettings(_Section):
    """
    How to reach the queues.

    :param endpoint_url: Endpoint other than AWS's own, for an emulator.
    :param region: AWS region.
    :param credentials_file: AWS credentials file; ``None`` for the standard chain of AWS.
    :param profile: Profile in that file or in the standard ones.
    """

    endpoint_url: str | None = None
    region: str = "us-east-1"
    credentials_file: Path | None = None
    profile: str | None = None


class DockerSettings(_Section):
    """
    The container engine.

    :param url: Its socket; ``DOCKER_HOST`` if that is set.
    :param network: Docker network of the attempts that may use one.
    :param tmp_mib: Size of the in-memory ``/tmp`` of a container, MiB; counts as its memory.
    :param pull: Whether an image that is not on this machine is pulled.
    :param images_mib: Most disk for images that the agent has pulled by content, MiB; the oldest go
        first, and what is in use stays.
    """

    url: str = Field(
        default_factory=lambda: os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    )
    network: str = "bridge"
    tmp_mib: int = Field(default=256, ge=16)
    pull: bool = True
    images_mib: int = Field(default=51_200, ge=0)


class ProcessSettings(_Section):
    """
    The runtime without isolation, for machines without a container engine.

    :param command: The runner's command, in place of an image's entry point.
    :param environment: Added to the environment of every attempt.
    :param may_hold_private_data: Whether private data may be held all the same: what is submitted
        can then read them at any time, and send them anywhere. For tests.
    """

    command: tuple[str, ...] = Field(min_length=1)
    environment: dict[str, str] = Field(default_factory=dict)
    may_hold_private_data: bool = False


class PrivateDataSettings(_Section):
    """
    A data set that stays on this server.

    :param name: Its name.
    :param version: Its version.
    :param digest: Of ``data.toml`` and the data file, which ``touchstone data add --private``
        tells.
    :param folder: Where both are; readable by this agent alone.
    """

    name: DataName
    version: DataVersion
    digest: Sha256
    folder: Path

    @property
    def held(self) -> HeldData:
        """Return which data set it is, as others are told of it."""
        return HeldData(name=self.name, version=self.version, digest=self.digest)


class JudgeSettings(_Section):
    """
    The judge of this server, for what is trained on private data.

    :param python: The interpreter of its environment.
    """

    python: Path


class AgentSettings(_Section):
    """
    An agent's settings.

    :param env: Environment, part of every name.
    :param server: Name of this server; default is the host's name, and the variable
        ``TOUCHSTONE_SERVER`` outranks both.
    :param state_dir: Where the journal and the attempts' folders are.
    :param private_key_file: This server's signing key; readable by its owner alone.
    :param control_public_key: The control plane's public key, or
    :param control_public_key_file: the file that holds it.
    :param runtime: ``docker``, or ``process`` (no isolation, must be asked for by name).
    :param slots: Training slots; 0 takes no trainings.
    :param validation_slots: Validation slots.
    :param heartbeat_seconds: Between two heartbeats.
    :param log_flush_seconds: Between two looks at a console.
    :param keep_hours: How long an ended attempt is kept without an acknowledgement.
    :param quarantine_seconds: How long an attempt without a record may go on.
    :param sync_grace_seconds: How long an expected attempt may take to arrive before it is lost.
    :param min_free_mib: Free disk below which no START is taken, MiB.
    :param prepared_mib: Most disk for what was prepared for trainings, MiB; what is in use stays.
    :param compilation_cache_mib: Most disk for what trainings have compiled, MiB; 0 keeps nothing.
    :param images_allowed: Patterns of images that may run here; there is no default, because
        who may name an image may run anything. Where nothing isolates, no image is run.
    :param gpu: ``auto`` detects NVIDIA GPUs, ``none`` hides them, a list names some by index.
    :param objects_url: Where the object store is, for ``doctor`` to look whether it can be
        reached; files themselves travel by presigned URL.
    :param gpu_shares: How many trainings share one GPU at a time, or one slice of a split GPU.
    :param private_data: Data sets that stay here. Of attempts on them nothing is sent but figures
        of the judge's.
    :param judge: The judge that computes those.
    """

    env: Environment
    server: ServerName
    state_dir: Path
    private_key_file: Path
    control_public_key: str | None = None
    control_public_key_file: Path | None = None
    sqs: SqsSettings = Field(default_factory=SqsSettings)
    runtime: Literal["docker", "process"] = "docker"
    slots: int = Field(default=1, ge=0)
    validation_slots: int = Field(default=1, ge=0)
    docker: DockerSettings = Field(default_factory=DockerSettings)
    process: ProcessSettings | None = None
    heartbeat_seconds: float = Field(default=15, gt=0)
    log_flush_seconds: float = Field(default=2, gt=0)
    keep_hours: float = Field(default=48, gt=0)
    quarantine_seconds: float = Field(default=600, ge=0)
    sync_grace_seconds: float = Field(default=30, ge=0)
    min_free_mib: int = Field(default=1024, ge=0)
    prepared_mib: int = Field(default=20_480, ge=64)
    compilation_cache_mib: int = Field(default=1024, ge=0)
    images_allowed: tuple[ImagePattern, ...] = ()
    objects_url: Annotated[str, StringConstraints(pattern=r"^https?://\S{1,300}$")] | None = None
    gpu: Literal["auto", "none"] | tuple[int, ...] = "auto"
    gpu_shares: int = Field(default=1, ge=1, le=MAX_GPU_SHARES)
    private_data: tuple[PrivateDataSettings, ...] = Field(default=(), max_length=MAX_HELD)
    judge: JudgeSettings | None = None

    @model_validator(mode="after")
    def _is_complete(self) -> AgentSettings:
        if (self.control_public_key is None) == (self.control_public_key_file is None):
            raise ValueError("set either control_public_key or control_public_key_file")
        if self.runtime == "process" and self.process is None:
            raise ValueError('runtime "process" needs process.command')
        if self.runtime == "docker" and not self.images_allowed:
            raise ValueError(
                "images_allowed names no image: write the trainer's there, "
                'for example images_allowed = ["registry.example/trainer:*"]'
            )
        if self.private_data:
            self._check_private_data()
        return self

    def _check_private_data(self) -> None:
        if self.judge is None:
            raise ValueError(
                "private_data needs judge.python, the interpreter of the judge's environment: "
                "predictions do not leave this server to be judged elsewhere"
            )
        labels = [(each.name, each.version) for each in self.private_data]
        if len(set(labels)) < len(labels):
            raise ValueError("private_data names a version of a data set twice; keep one")
        process = self.process if self.runtime == "process" else None
        if process is not None and not process.may_hold_private_data:
            raise ValueError(
                'private_data: runtime "process" isolates nothing, so what is submitted could send '
                'the data anywhere; set runtime = "docker"'
            )

    @property
    def image_patterns(self) -> tuple[str, ...] | None:
        """Return which images may run here; ``None`` where attempts do not run in one."""
        return self.images_allowed or None

    def get_process(self) -> ProcessSettings:
        """
        Return the settings of the process runtime.

        :raises ConfigurationError: If there are none.
        """
        if self.process is None:
            raise ConfigurationError('runtime "process" needs process.command')
        return self.process

    @property
    def group(self) -> str:
        """Return the message group of what this server says of itself."""
        return f"server-{self.server}"

    @property
    def request_queue(self) -> str:
        """Return the queue of STARTs."""
        return build_request_queue(self.server)

    @property
    def control_queue(self) -> str:
        """Return the queue of everything else that comes in."""
        return build_control_queue(self.server)

    @property
    def event_queue(self) -> str:
        """Return the queue on which this agent reports."""
        return build_event_queue(self.env)

    @property
    def attempts_dir(self) -> Path:
        """Return the folder of the attempts' folders."""
        return self.state_dir / "attempts"

    @property
    def prepared_dir(self) -> Path:
        """Return the folder of what was prepared for trainings."""
        return self.state_dir / "prepared"

    @property
    def compiled_dir(self) -> Path:
        """Return the folder of what trainings have compiled."""
        return self.state_dir / "compiled"

    @property
    def images_file(self) -> Path:
        """Return where it is written down which images were pulled here."""
        return self.state_dir / "images.json"

    @property
    def old_cache_dir(self) -> Path:
        """Return where the version before kept what all its attempts shared and could write to."""
        return self.state_dir / "cache"

    @property
    def private_dir(self) -> Path:
        """Return where it stays what attempts on private data have left."""
        return self.state_dir / "private"

    @property
    def journal_file(self) -> Path:
        """Return the journal's file."""
        return self.state_dir / "journal.db"

    def read_private_key(self) -> Ed25519PrivateKey:
        """
        Read this server's signing key.

        :raises ConfigurationError: If it cannot be read, is not a key, or others may read it.
        """
        text = _read(self.private_key_file)
        mode = stat.S_IMODE(self.private_key_file.stat().st_mode)
        if mode & 0o177:
            raise ConfigurationError(
                f"{self.private_key_file} has mode {mode:04o}: others could sign as this server; "
                "chmod 600 it, and replace the key if the machine has other users"
            )
        return load_private_key(text)

    def read_control_keys(self) -> dict[str, Ed25519PublicKey]:
        """
        Read the control plane's public key.

        :raises ConfigurationError: If it cannot be read or is not a key.
        """
        if self.control_public_key is not None:
            return {CONTROL_KID: load_public_key(self.control_public_key.strip())}
        if self.control_public_key_file is None:
            raise ConfigurationError("set either control_public_key or control_public_key_file")
        return {CONTROL_KID: load_public_key(_read(self.control_public_key_file))}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"cannot read the key in {path}: {type(error).__name__}"
        ) from error


def load_settings(path: Path, environ: dict[str, str] | None = None) -> AgentSettings:
    """
    Read and check a settings file; paths in it are relative to its folder.

    :param path: The TOML file. What its owner says of private data may be in :data:`OWNERS_FILE`
        beside it, which an enrolment leaves alone.
    :param environ: Environment variables; ``None`` for this process's.
    :raises ConfigurationError: If it cannot be read, or a value is missing, wrong or unknown.
    """
    data = _read_toml(path)
    owners = path.with_name(OWNERS_FILE)
    if owners.exists():
        for key, value in _read_toml(owners).items():
            if key not in _OWNERS_KEYS or key in data:
                told = " and ".join(_OWNERS_KEYS)
                raise ConfigurationError(
                    f"settings {owners}: {key}: only {told} may stand here, and not in {path.name} "
                    "too"
                )
            data[key] = value
    environ = dict(os.environ) if environ is None else environ
    default = socket.gethostname().split(".")[0].lower()
    data["server"] = environ.get(SERVER_VARIABLE) or data.get("server", default)
    try:
        settings = AgentSettings.model_validate(data)
    except ValidationError as error:
        lines = (f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise ConfigurationError(f"settings {path}: {'; '.join(lines)}") from error
    return _anchor(settings, path.resolve().parent)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"cannot read settings {path}: {error}") from error


def _anchor(settings: AgentSettings, base: Path) -> AgentSettings:
    names = ("state_dir", "private_key_file", "control_public_key_file")
    update: dict[str, Any] = {
        name: base / value for name in names if (value := getattr(settings, name)) is not None
    }
    if settings.sqs.credentials_file is not None:
        anchored = base / settings.sqs.credentials_file
        update["sqs"] = settings.sqs.model_copy(update={"credentials_file": anchored})
    update["private_data"] = tuple(
        each.model_copy(update={"folder": base / each.folder}) for each in settings.private_data
    )
    if settings.judge is not None:
        update["judge"] = JudgeSettings(python=base / settings.judge.python)
    return settings.model_copy(update=update)
