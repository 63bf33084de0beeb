"""Decides what a stack consists of, remembers it, and writes the parts' configuration."""

from __future__ import annotations

import json
import os
import secrets
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from touchstone.stack import environment, leftovers
from touchstone.stack.agent_config import render_agent_config
from touchstone.stack.credentials import Credentials, ensure_credentials, read_credentials
from touchstone.stack.layout import (
    MARKER,
    LocalServer,
    Ports,
    Runtime,
    StackRecord,
    StatePaths,
    Urls,
    find_record,
    get_record,
    write_private,
)
from touchstone.stack.ports import choose_ports, is_free
from touchstone.stack.programs import (
    Part,
    build_parts,
    build_supervisor_config,
    environment_file,
)
from touchstone.stack.supervisor import Supervisor
from touchstone_agent.protocol.errors import ConfigurationError

_SOCKET_LIMIT = 100
"""A socket's address has 107 bytes at most; the supervisor appends its pid while binding."""


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    """
    What ``touchstone up`` was asked for.

    :param runtime: What attempts run in.
    :param slots: Trainings at a time on a single server; 0 takes only validations, ``None`` keeps
        what was, or follows the CPUs.
    :param validation_slots: Validations at a time on a single server; ``None`` keeps what was.
    :param servers: Several servers, each an agent of its own; empty for one, or what was.
    :param ports: Configured ports by name.
    """

    runtime: Runtime
    slots: int | None = None
    validation_slots: int | None = None
    servers: tuple[LocalServer, ...] = ()
    ports: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Stack:
    """
    A stack as configured: everything that follows from its record.

    :param paths: Its files.
    :param record: What it remembers.
    :param credentials: Its secrets.
    :param parts: Its parts in starting order.
    """

    paths: StatePaths
    record: StackRecord
    credentials: Credentials
    parts: tuple[Part, ...]

    @property
    def supervisor(self) -> Supervisor:
        """Return the way to the stack's supervisor, which may not run."""
        return Supervisor(self.record.socket, self.paths.supervisor_config)

    @property
    def host_environment(self) -> dict[str, str]:
        """Return what every process gets from the shell, with the stack's marker."""
        return {
            **environment.build_host_environment(os.environ),
            "PATH": environment.build_path(os.environ, Path(sys.prefix)),
            MARKER: self.record.stack_id,
        }


def load_stack(paths: StatePaths) -> Stack:
    """
    Return the stack of a state directory as it was last configured.

    :raises ConfigurationError: If nothing was ever started there.
    """
    record = get_record(paths)
    credentials = read_credentials(paths)
    parts = build_parts(paths, record, credentials, os.environ)
    return Stack(paths=paths, record=record, credentials=credentials, parts=parts)


def configure(paths: StatePaths, options: UpOptions) -> Stack:
    """
    Write a stack's record, secrets and configuration anew, keeping what was decided before.

    :raises ConfigurationError: If a configured port is in use.
    """
    record = _build_record(paths, options)
    credentials = ensure_credentials(paths, [server.name for server in record.servers])
    write_private(paths.record, record.model_dump_json(indent=2) + "\n")
    for server in record.servers:
        config = render_agent_config(paths, record, server, os.environ)
        write_private(paths.agent_config(server.name), config)
    parts = build_parts(paths, record, credentials, os.environ)
    stack = Stack(paths=paths, record=record, credentials=credentials, parts=parts)
    for part in parts:
        content = json.dumps({**stack.host_environment, **part.environment}, indent=1)
        write_private(environment_file(paths, part), content)
    write_private(paths.supervisor_config, build_supervisor_config(paths, record, parts))
    return stack


def _build_record(paths: StatePaths, options: UpOptions) -> StackRecord:
    old = find_record(paths)
    ports = _decide_ports(paths, old, options.ports)
    stack_id = old.stack_id if old else secrets.token_hex(6)
    return StackRecord(
        stack_id=stack_id,
        # Fixed by the first start: queues, buckets and containers carry it in their names.
        env=old.env if old else os.environ.get("TOUCHSTONE_ENV", "dev"),
        servers=decide_servers(old, options),
        ports=ports,
        configured_ports=frozenset(options.ports) or (old.configured_ports if old else frozenset()),
        urls=Urls(
            **{name: f"http://127.0.0.1:{getattr(ports, name)}" for name in Urls.model_fields}
        ),
        region=old.region if old else "us-west-2",
        socket=old.socket if old else _choose_socket(paths, stack_id),
        runtime=options.runtime,
        airflow_version=old.airflow_version if old else None,
        created_at=old.created_at if old else datetime.now(UTC),
    )


def decide_servers(old: StackRecord | None, options: UpOptions) -> tuple[LocalServer, ...]:
    """
    Return the servers of a stack.

    :param old: The stack as it was; ``None`` at its first start.
    :param options: What was asked for now.
    """
    if options.servers:
        return options.servers
    if old and len(old.servers) > 1:
        return old.servers
    slots = max(2, (os.cpu_count() or 2) // 2)
    before = old.servers[0] if old else LocalServer(name="local", slots=slots)
    asked = {"slots": options.slots, "validation_slots": options.validation_slots}
    return (before.model_copy(update={k: v for k, v in asked.items() if v is not None}),)


def refuse_rival(paths: StatePaths, options: UpOptions) -> None:
    """
    Keep two stacks from taking each other's containers for their own left-overs.

    :raises ConfigurationError: If another stack of the same environment runs here.
    """
    if options.runtime is not Runtime.DOCKER:
        return
    old = find_record(paths)
    env = old.env if old else os.environ.get("TOUCHSTONE_ENV", "dev")
    rival = leftovers.find_rival(old.stack_id if old else "", env)
    if rival is not None:
        raise ConfigurationError(
            f"the stack in {rival} runs on this machine in the same environment, {env}: its "
            "containers and this one's could not be told apart. Stop it, or set TOUCHSTONE_ENV "
            "to another name for this one"
        )


def _decide_ports(
    paths: StatePaths, old: StackRecord | None, configured: Mapping[str, int]
) -> Ports:
    remembered = old.ports.model_dump() if old else {}
    if old is None:
        return choose_ports(configured, remembered)
    # Ports once asked for stay asked for, until others are.
    wanted = {name: remembered[name] for name in old.configured_ports} | dict(configured)
    if Supervisor(old.socket, paths.supervisor_config).is_running():
        # Its own parts listen on the remembered ones; only what is new needs a free port.
        kept = {n: port for n, port in remembered.items() if port and wanted.get(n, port) == port}
        return choose_ports(
            {name: port for name, port in wanted.items() if name not in kept},
            remembered,
            free=lambda port: port in kept.values() or is_free(port),
        )
    leftovers.end_marked(old.stack_id)
    return choose_ports(wanted, remembered)


def _choose_socket(paths: StatePaths, stack_id: str) -> Path:
    socket = paths.root / "supervisor.sock"
    if len(os.fsencode(socket)) < _SOCKET_LIMIT:
        return socket
    folder = Path(tempfile.gettempdir()) / f"touchstone-{os.getuid()}-{stack_id}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / "supervisor.sock"
