"""Where a one-machine installation keeps what, and what it remembers between two starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from touchstone.core.fleet import check_server_name
from touchstone_agent.protocol.errors import ConfigurationError

REPOSITORY = Path(__file__).resolve().parents[3]
"""The checkout this package runs from: the stack needs its DAGs, plugins and trainer."""

MARKER = "TOUCHSTONE_STACK"
"""Environment variable that every process of a stack carries, with the stack's id."""


_UNUSABLE = frozenset("%;?#\"'\n")
"""Interpolation, comments and quotes of an INI file; a URL's query and fragment."""


_MAX_SLOTS = 64


class Runtime(StrEnum):
    """What the agent runs attempts in."""

    DOCKER = "docker"
    PROCESS = "process"


class Ports(BaseModel):
    """
    The loopback ports of a stack.

    :param airflow: Airflow's API server and pages.
    :param dispatcher: The dispatcher's health.
    :param execution: Airflow's API for its own tasks.
    :param mlflow: The MLflow server.
    :param ministack: SQS, S3 and DynamoDB.

    0 is a port not chosen yet: of a part that the version before this one did not have.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    airflow: int = 0
    execution: int = 0
    mlflow: int = 0
    ministack: int = 0
    dispatcher: int = 0


class Urls(BaseModel):
    """The addresses that people and clients use."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    airflow: str = ""
    execution: str = ""
    mlflow: str = ""
    ministack: str = ""
    dispatcher: str = ""


class LocalServer(BaseModel):
    """
    An on-prem server that is, really, an agent of its own on this machine.

    :param name: Its name; also that of its pool and queues.
    :param slots: Trainings at a time; 0 takes only validations.
    :param validation_slots: Validations at a time.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    slots: int
    validation_slots: int = 1

    @property
    def part(self) -> str:
        """Return the name of the part that is its agent."""
        return f"agent-{self.name}"


class StackRecord(BaseModel):
    """
    What a stack remembers between two starts; holds no secret.

    :param stack_id: Marks this stack's processes.
    :param env: Environment of every name.
    :param servers: The on-prem servers, each an agent on this machine.
    :param ports: Ports, chosen once.
    :param configured_ports: Names of the ports that were asked for, not chosen.
    :param urls: Addresses that follow from the ports.
    :param region: AWS region the stores answer for.
    :param socket: The supervisor's control socket.
    :param runtime: What attempts run in.
    :param airflow_version: Airflow that last migrated the metadata database.
    :param created_at: First start, UTC.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    stack_id: str
    env: str
    servers: tuple[LocalServer, ...]
    ports: Ports
    configured_ports: frozenset[str] = frozenset()
    urls: Urls
    region: str
    socket: Path
    runtime: Runtime
    airflow_version: str | None = None
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class StatePaths:
    """
    Every path inside a state directory.

    :param root: The state directory; absolute.
    """

    root: Path

    @property
    def record(self) -> Path:
        """Return the file of the :class:`StackRecord`."""
        return self.root / "stack.json"

    @property
    def credentials(self) -> Path:
        """Return the file of all secrets."""
        return self.root / "credentials.json"

    @property
    def lock(self) -> Path:
        """Return the file that is locked while a command changes the stack."""
        return self.root / "lock"

    @property
    def supervisor_config(self) -> Path:
        """Return the supervisor's configuration."""
        return self.root / "supervisord.conf"

    @property
    def supervisor_log(self) -> Path:
        """Return the supervisor's own log."""
        return self.logs / "supervisord.log"

    @property
    def supervisor_pid(self) -> Path:
        """Return the supervisor's pid file."""
        return self.root / "supervisord.pid"

    @property
    def crashes(self) -> Path:
        """Return the journal of parts that ended unasked."""
        return self.logs / "crashes.jsonl"

    @property
    def logs(self) -> Path:
        """Return the folder of the parts' logs."""
        return self.root / "logs"

    @property
    def environments(self) -> Path:
        """Return the folder of the parts' environments."""
        return self.root / "env"

    @property
    def temporary(self) -> Path:
        """Return the folder for temporary files of the parts."""
        return self.root / "tmp"

    @property
    def airflow(self) -> Path:
        """Return ``AIRFLOW_HOME``."""
        return self.root / "airflow"

    @property
    def airflow_database(self) -> Path:
        """Return Airflow's metadata database."""
        return self.airflow / "airflow.db"

    @property
    def airflow_passwords(self) -> Path:
        """Return the users' passwords as Airflow's simple auth manager reads them."""
        return self.airflow / "passwords.json"

    @property
    def mlflow(self) -> Path:
        """Return the folder of MLflow's database and artifacts."""
        return self.root / "mlflow"

    @property
    def ministack(self) -> Path:
        """Return the folder of queues, tables and objects."""
        return self.root / "ministack"

    @property
    def agents(self) -> Path:
        """Return the folder of the agents' configurations and states."""
        return self.root / "agents"

    @property
    def keys(self) -> Path:
        """Return the folder of the keys that sign what agents and control plane say."""
        return self.root / "keys"

    def agent_state(self, server: str) -> Path:
        """Return an agent's own state folder."""
        return self.agents / server

    def agent_config(self, server: str) -> Path:
        """Return an agent's configuration."""
        return self.agents / f"{server}.toml"

    def agent_key(self, server: str) -> Path:
        """Return the file of an agent's private key."""
        return self.keys / f"{server}.key"

    @property
    def control_public_key(self) -> Path:
        """Return the file of the control plane's public key."""
        return self.keys / "control.pub"

    def log_of(self, part: str) -> Path:
        """Return the log of one part."""
        return self.logs / f"{part}.log"

    def make(self) -> None:
        """Create the folders, readable by their owner only."""
        for folder in (
            self.root,
            self.logs,
            self.environments,
            self.temporary,
            self.airflow,
            self.mlflow,
            self.ministack,
            self.agents,
            self.keys,
        ):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)


def find_state_dir(given: Path | None, environ: Mapping[str, str] = os.environ) -> StatePaths:
    """
    Return the state directory a command works on.

    :param given: What the command line names; wins over ``TOUCHSTONE_STATE_DIR``, which wins over
        ``.touchstone`` in the checkout.
    :param environ: The environment of the command.
    :raises ConfigurationError: If the path holds a character that means something else in the
        configuration made from it.
    """
    chosen = given or (Path(text) if (text := environ.get("TOUCHSTONE_STATE_DIR")) else None)
    root = (chosen or REPOSITORY / ".touchstone").expanduser().absolute()
    if unusable := _UNUSABLE & set(str(root)):
        raise ConfigurationError(
            f"state directory {str(root)!r}: the supervisor's configuration cannot hold a path "
            f"with {' or '.join(map(repr, sorted(unusable)))}"
        )
    return StatePaths(root=root)


def parse_servers(text: str | None) -> tuple[LocalServer, ...]:
    """
    Read servers as the command line gives them.

    :param text: For example ``a=1,b=2``; ``None`` or empty for none.
    :raises ConfigurationError: If a name cannot be one, comes twice, or its slots are no number.
    """
    servers: dict[str, LocalServer] = {}
    for item in filter(None, (text or "").replace(" ", "").split(",")):
        name, _, slots = item.partition("=")
        check_server_name(name)
        if not slots.isdecimal() or int(slots) > _MAX_SLOTS:
            raise ConfigurationError(f"server {item!r}: write NAME=SLOTS, 0 to {_MAX_SLOTS}")
        if name in servers:
            raise ConfigurationError(f"server {name!r} is given twice")
        servers[name] = LocalServer(name=name, slots=int(slots))
    return tuple(servers.values())


def find_record(paths: StatePaths) -> StackRecord | None:
    """
    Read what a stack remembers.

    :return: The record, or ``None`` if nothing was ever started here.
    :raises ConfigurationError: If the record cannot be read; the directory is somebody else's or
        damaged, and nothing is done to it.
    """
    if not paths.record.exists():
        return None
    try:
        return StackRecord.model_validate_json(paths.record.read_text())
    except (ValidationError, ValueError) as error:
        raise ConfigurationError(
            f"{paths.record} is not a record of a Touchstone stack ({error}): name another "
            "directory with --state-dir, or remove this one"
        ) from error


def get_record(paths: StatePaths) -> StackRecord:
    """
    Read what a stack remembers.

    :raises ConfigurationError: If nothing was ever started here.
    """
    record = find_record(paths)
    if record is None:
        raise ConfigurationError(f"no stack in {paths.root}: start one with `touchstone up`")
    return record


def write_private(path: Path, text: str) -> None:
    """Replace a file at once, readable by its owner only, also while it is being written."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


def tool(name: str) -> str:
    """Return the path of a console script of the environment this code runs in."""
    return str(Path(sys.prefix) / "bin" / name)
