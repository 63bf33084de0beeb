"""The parts of a stack and the supervisor's configuration that runs them. Pure."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from touchstone.stack import environment, launch
from touchstone.stack.agent_config import render_agent_config
from touchstone.stack.credentials import Credentials
from touchstone.stack.layout import REPOSITORY, LocalServer, StackRecord, StatePaths, tool

LISTENER = "crash-journal"
"""The supervisor's event listener; not a part that users know."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """
    One process of a stack.

    :param name: Its name, also in ``touchstone status``.
    :param command: Program and arguments; the program is absolute.
    :param environment: Its whole environment, but for what it takes over from the shell.
    :param stop_seconds: How long it may take to end in good order.
    :param health_url: Answers 200 when it works; ``None`` if it has no such address.
    :param url: What people open; ``None`` if nothing.
    :param server: The server whose agent it is; ``None`` for anything else.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    stop_seconds: int = 10
    health_url: str | None = None
    url: str | None = None
    server: str | None = None

    @property
    def digest(self) -> str:
        """Identify the configuration; a part whose digest changes is restarted."""
        content = json.dumps([self.command, dict(self.environment)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def build_parts(
    paths: StatePaths,
    record: StackRecord,
    credentials: Credentials,
    environ: Mapping[str, str],
) -> tuple[Part, ...]:
    """
    Return the parts of a stack in the order in which they start.

    :param environ: The shell's environment, of which ``TOUCHSTONE_*`` is passed on.
    """
    common = environment.build_common(paths, record, environ)
    control = environment.build_control(paths, record, credentials, environ)
    airflow, touchstone = tool("airflow"), tool("touchstone")
    preloaded = (sys.executable, "-m", "touchstone.stack.preloaded")
    urls = record.urls
    return (
        Part(
            name="ministack",
            command=(str(REPOSITORY / ".venv-emulator/bin/python"), "-m", "ministack"),
            environment={**common, **environment.build_ministack(paths, record)},
            # It writes queues and tables to disk when it ends, and only then.
            stop_seconds=30,
            health_url=f"{urls.ministack}/_ministack/health",
            url=urls.ministack,
        ),
        Part(
            name="mlflow",
            command=(
                *(tool("mlflow"), "server", "--host", "127.0.0.1"),
                *("--port", str(record.ports.mlflow), "--workers", "1", "--serve-artifacts"),
                *("--allowed-hosts", f"127.0.0.1:{record.ports.mlflow}"),
            ),
            environment={**common, **environment.build_mlflow(paths)},
            health_url=f"{urls.mlflow}/health",
            url=urls.mlflow,
        ),
        Part(
            name="airflow-api",
            command=(airflow, "api-server", "--apps", "core"),
            environment={**control, **environment.build_airflow_api(paths)},
            health_url=f"{urls.airflow}/api/v2/monitor/health",
            url=urls.airflow,
        ),
        Part(
            # Apart from the API for people, whose event loop can stand still for seconds.
            name="airflow-execution-api",
            command=(
                *(airflow, "api-server", "--apps", "execution"),
                *("--port", str(record.ports.execution)),
            ),
            environment=control,
            health_url=f"{urls.execution}/execution/health",
        ),
        # Logs are read from the disk they are on: without --skip-serve-logs these two would
        # serve them on every interface.
        Part(
            name="airflow-scheduler",
            command=(*preloaded, "scheduler", "--skip-serve-logs"),
            environment=control,
            stop_seconds=20,
        ),
        Part(
            name="airflow-triggerer",
            command=(airflow, "triggerer", "--skip-serve-logs"),
            environment=control,
            stop_seconds=20,
        ),
        Part(
            name="airflow-dag-processor",
            command=(*preloaded, "dag-processor"),
            environment=control,
        ),
        Part(
            name="dispatcher",
            command=(touchstone, "dispatcher"),
            environment={**control, "TOUCHSTONE_DISPATCHER_PORT": str(record.ports.dispatcher)},
            health_url=f"{urls.dispatcher}/health",
        ),
        *(_build_agent(paths, record, server, common, environ) for server in record.servers),
    )


def _build_agent(
    paths: StatePaths,
    record: StackRecord,
    server: LocalServer,
    common: Mapping[str, str],
    environ: Mapping[str, str],
) -> Part:
    config = render_agent_config(paths, record, server, environ)
    return Part(
        name=server.part,
        command=(
            *(tool("touchstone-agent"), "run"),
            *("--config", str(paths.agent_config(server.name))),
        ),
        environment={
            **common,
            **environment.build_aws(record, "agent"),
            # As in its systemd unit: its threads would keep what they once needed.
            "MALLOC_ARENA_MAX": "1",
            "MALLOC_TRIM_THRESHOLD_": "131072",
            # The supervisor restarts what changes here; the file alone it would not notice.
            "TOUCHSTONE_CONFIG_DIGEST": hashlib.sha256(config.encode()).hexdigest(),
        },
        stop_seconds=20,
        server=server.name,
    )


def build_supervisor_config(paths: StatePaths, record: StackRecord, parts: Sequence[Part]) -> str:
    """
    Return the supervisor's configuration.

    A part restarts when it ends unasked: at once, then after 1, 2, 3 ... seconds, and after twenty
    failures in a row not again. No secret is in this text.
    """
    sections = [
        _section(
            "supervisord",
            {
                "logfile": paths.supervisor_log,
                "logfile_maxbytes": "5MB",
                "logfile_backups": 2,
                "pidfile": paths.supervisor_pid,
                "childlogdir": paths.logs,
                "directory": REPOSITORY,
                "identifier": record.stack_id,
                "umask": "022",
                "strip_ansi": "true",
            },
        ),
        _section("unix_http_server", {"file": record.socket, "chmod": "0700"}),
        _section("supervisorctl", {"serverurl": f"unix://{record.socket}"}),
        _section(
            "rpcinterface:supervisor",
            {"supervisor.rpcinterface_factory": ("supervisor.rpcinterface:make_main_rpcinterface")},
        ),
        _section(
            f"eventlistener:{LISTENER}",
            {
                "command": _command(
                    [
                        sys.executable,
                        *("-m", "touchstone.stack.crashes"),
                        *(str(paths.supervisor_log), str(paths.crashes)),
                    ]
                ),
                "events": ("PROCESS_STATE_EXITED,PROCESS_STATE_BACKOFF,PROCESS_STATE_FATAL"),
                # Its standard output speaks to the supervisor.
                "stdout_logfile": "NONE",
                "stderr_logfile": paths.log_of(LISTENER),
                "stderr_logfile_maxbytes": "1MB",
                "stderr_logfile_backups": 1,
                "autorestart": "true",
            },
        ),
    ]
    sections += [_part_section(paths, part) for part in parts]
    return "\n".join(sections)


def environment_file(paths: StatePaths, part: Part) -> Path:
    """Return the file that holds a part's environment."""
    return paths.environments / f"{part.name}.json"


def _part_section(paths: StatePaths, part: Part) -> str:
    launcher = [sys.executable, "-I", "-S", str(launch.__file__)]
    return _section(
        f"program:{part.name}",
        {
            "command": _command([*launcher, str(environment_file(paths, part)), *part.command]),
            # The supervisor restarts what has changed here; this makes it see the environment.
            "environment": f'TOUCHSTONE_PART_DIGEST="{part.digest}"',
            "autostart": "false",
            "autorestart": "true",
            "startsecs": 2,
            "startretries": 20,
            "stopwaitsecs": part.stop_seconds,
            "stopasgroup": "true",
            "killasgroup": "true",
            "redirect_stderr": "true",
            "stdout_logfile": paths.log_of(part.name),
            "stdout_logfile_maxbytes": "10MB",
            "stdout_logfile_backups": 2,
        },
    )


def _section(name: str, options: Mapping[str, object]) -> str:
    lines = [f"{key} = {str(value).replace('%', '%%')}" for key, value in options.items()]
    return "\n".join([f"[{name}]", *lines, ""])


def _command(arguments: Sequence[str]) -> str:
    """Quote arguments as the supervisor splits them."""
    return shlex.join(arguments)
