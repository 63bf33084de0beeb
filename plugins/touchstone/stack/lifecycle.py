"""Bring a stack up, tell how it is, and take it down without leaving anything behind."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import FrameType

import httpx

from touchstone.stack import environment, health, leftovers, stores
from touchstone.stack.agent_config import render_agent_config
from touchstone.stack.crashes import read_crashes
from touchstone.stack.credentials import Credentials, ensure_credentials, read_credentials
from touchstone.stack.health import PartStatus
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
    tool,
    write_private,
)
from touchstone.stack.ports import choose_ports, is_free
from touchstone.stack.programs import (
    LISTENER,
    Part,
    build_parts,
    build_supervisor_config,
    environment_file,
)
from touchstone.stack.supervisor import ProcessInfo, Supervisor, SupervisorError
from touchstone_agent.protocol.errors import ConfigurationError, PermanentError

_SOCKET_LIMIT = 100
"""A socket's address has 107 bytes at most; the supervisor appends its pid while binding."""

_UP_SECONDS = 180
_DAG_SECONDS = 60
_POLL_SECONDS = 0.4
_LOG_LINES = 25
_FAILED_STARTS = 3
"""So often a part may end while starting before ``up`` gives up; one may be chance."""

Report = Callable[[str, str], None]
"""Takes a part's name and one line about it, while something goes on."""


class PartFailed(PermanentError):
    """A part does not come up; the message holds the end of its log."""


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


def up(paths: StatePaths, options: UpOptions, report: Report) -> list[PartStatus]:
    """
    Start what does not run, restart what has changed, and return when everything works.

    If this call started the supervisor and is interrupted or fails, nothing is left running.

    :raises ConfigurationError: If a configured port is in use, or another stack of the same
        environment runs here.
    :raises PartFailed: If a part does not come up.
    """
    _refuse_rival(paths, options)
    paths.make()
    with _locked(paths), _interruptible():
        stack = _configure(paths, options)
        was_running = stack.supervisor.is_running()
        try:
            return _bring_up(stack, report)
        except BaseException:
            if not was_running:
                with _uninterruptible():
                    report("stack", "stopping what was started")
                    _take_down(stack, report)
            raise


def down(paths: StatePaths, report: Report, *, delete_data: bool = False) -> int:
    """
    End every process and container of a stack; nothing happens if none runs.

    :param delete_data: Remove the state directory as well.
    :return: How many processes had outlived the supervisor and were ended.
    """
    if find_record(paths) is None:
        report("stack", f"nothing in {paths.root}")
        return 0
    with _locked(paths), _uninterruptible():
        stack = load_stack(paths)
        ended = _take_down(stack, report)
        if delete_data:
            shutil.rmtree(paths.root)
            report("stack", f"removed {paths.root}")
    return ended


def get_status(paths: StatePaths) -> list[PartStatus]:
    """
    Return how each part is.

    :raises ConfigurationError: If nothing was ever started there.
    """
    return _judge(load_stack(paths))


def _configure(paths: StatePaths, options: UpOptions) -> Stack:
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


def _refuse_rival(paths: StatePaths, options: UpOptions) -> None:
    """Keep two stacks from taking each other's containers for their own left-overs."""
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


def _bring_up(stack: Stack, report: Report) -> list[PartStatus]:
    supervisor = stack.supervisor
    if supervisor.is_running():
        changed = supervisor.apply_config()
        for name in sorted(changed):
            report(name, "configuration changed, restarting")
    else:
        # A supervisor that was killed leaves its parts behind; they would hold the ports.
        leftovers.end_marked(stack.record.stack_id)
        # The folder is temporary if the state directory's own path is too long for a socket.
        stack.record.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        supervisor.start(stack.host_environment)
    wait = _Waiter(stack, report)
    with _migration(stack) as finish_migration:
        supervisor.start_part("ministack")
        supervisor.start_part("mlflow")
        wait.until_healthy({"ministack"})
        created = stores.provision_local(stack.record, stack.credentials)
        report("stores", f"{created} created" if created else "all there")
        finish_migration(report)
    names = [part.name for part in stack.parts]
    for name in names:
        if name.startswith("airflow-"):
            supervisor.start_part(name)
    wait.until_healthy({"airflow-api", "mlflow"})
    report("pools", stores.ensure_pools(stack.record, stack.credentials))
    stores.ensure_local_experiment(stack.record)
    for name in names:
        supervisor.start_part(name)
    statuses = wait.until_healthy(set(names))
    _await_dag(stack, report)
    return statuses


def _await_dag(stack: Stack, report: Report) -> None:
    """Wait until Airflow has read the DAG: before that nobody can submit."""
    deadline = time.monotonic() + _DAG_SECONDS
    while (problem := stores.find_dag_problem(stack.record, stack.credentials)) is not None:
        if problem:
            raise PartFailed(f"Airflow cannot read the DAG {stores.DAG_ID}:\n{problem}")
        if time.monotonic() > deadline:
            raise PartFailed(f"Airflow has not read the DAG {stores.DAG_ID} in {_DAG_SECONDS} s")
        time.sleep(_POLL_SECONDS)
    report("dag", f"{stores.DAG_ID} is there")


def _take_down(stack: Stack, report: Report) -> int:
    supervisor = stack.supervisor
    if supervisor.is_running():
        names = [part.name for part in stack.parts]
        # First whoever could start something new.
        supervisor.stop_parts(
            part.name
            for part in stack.parts
            if part.server or part.name in {"dispatcher", "airflow-scheduler"}
        )
        report("trainings", _purge(stack))
        # The stores last: the others still write to them while they end.
        supervisor.stop_parts(name for name in names if name != "ministack")
        supervisor.stop_parts(["ministack", LISTENER])
        pid = supervisor.get_pid()
        with contextlib.suppress(SupervisorError):
            supervisor.shut_down()
        _await_end(pid)
    else:
        # An agent without its supervisor still runs; it would start what is being ended.
        orphans = leftovers.end_marked(stack.record.stack_id)
        report("trainings", _purge(stack))
        report("stack", f"{orphans} processes without a supervisor ended")
    ended = leftovers.end_marked(stack.record.stack_id)
    report("stack", f"stopped; {ended} left-over processes ended" if ended else "stopped")
    return ended


def _purge(stack: Stack) -> str:
    """End what agents started: containers and process groups are not their children's children."""
    return "; ".join(_purge_agent(stack, part) for part in stack.parts if part.server)


def _purge_agent(stack: Stack, agent: Part) -> str:
    if not Path(agent.command[0]).exists():
        return "no agent installed"
    done = subprocess.run(
        [agent.command[0], "purge", "--config", str(stack.paths.agent_config(str(agent.server)))],
        env={**stack.host_environment, **agent.environment},
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    # On success the last line counts what was ended; log lines go to standard error.
    output = done.stdout if done.returncode == 0 else done.stderr or done.stdout
    last = (output.strip().splitlines() or ["done"])[-1]
    return last if done.returncode == 0 else f"purge failed ({done.returncode}): {last}"


def _await_end(pid: int) -> None:
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)


@contextlib.contextmanager
def _migration(stack: Stack) -> Iterator[Callable[[Report], None]]:
    """
    Bring Airflow's database to this Airflow's schema, beside the stores' start.

    It takes some seconds even when there is nothing to do, so it is left out for a database that
    this version of Airflow has migrated already.
    """
    paths, installed = stack.paths, version("apache-airflow-core")
    if stack.record.airflow_version == installed and paths.airflow_database.exists():
        yield lambda _report: None
        return
    part = next(part for part in stack.parts if part.name == "airflow-api")
    log = paths.log_of("airflow-migrate")
    with log.open("w") as output:
        process = subprocess.Popen(
            [tool("airflow"), "db", "migrate"],
            env={**stack.host_environment, **part.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def finish(report: Report) -> None:
        if process.wait() != 0:
            raise PartFailed(f"airflow db migrate failed; the end of {log}:\n{_tail(log)}")
        record = stack.record.model_copy(update={"airflow_version": installed})
        write_private(paths.record, record.model_dump_json(indent=2) + "\n")
        report("airflow-db", f"migrated to {installed}")

    try:
        yield finish
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class _Waiter:
    """Waits for parts, reports each once when it works, and knows when waiting is in vain."""

    def __init__(self, stack: Stack, report: Report) -> None:
        self._stack = stack
        self._report = report
        self._since = time.monotonic()
        self._reported: set[str] = set()
        self._failed_starts: dict[str, set[int]] = {}

    def until_healthy(self, names: set[str]) -> list[PartStatus]:
        deadline = time.monotonic() + _UP_SECONDS
        while True:
            processes = {info.name: info for info in self._stack.supervisor.list_parts()}
            statuses = _judge(self._stack, processes)
            for status in statuses:
                self._tell(status)
            waiting = [s for s in statuses if s.name in names and not s.is_healthy]
            if not waiting:
                return statuses
            for status in statuses:
                self._check(status, processes.get(status.name))
            if time.monotonic() > deadline:
                status = waiting[0]
                raise self._failure(status, f"{status.state} after {_UP_SECONDS} s")
            time.sleep(_POLL_SECONDS)

    def _tell(self, status: PartStatus) -> None:
        if status.is_healthy and status.name not in self._reported:
            self._reported.add(status.name)
            at = f" at {status.url}" if status.url else ""
            self._report(status.name, f"healthy after {time.monotonic() - self._since:.1f} s{at}")

    def _check(self, status: PartStatus, process: ProcessInfo | None) -> None:
        if status.state == "failed":
            raise self._failure(status, "it was given up")
        if status.state == "failing" and process:
            starts = self._failed_starts.setdefault(status.name, set())
            starts.add(process.started_at)
            if len(starts) >= _FAILED_STARTS:
                raise self._failure(status, f"it ended {len(starts)} times while starting")

    def _failure(self, status: PartStatus, what: str) -> PartFailed:
        log = self._stack.paths.log_of(status.name)
        why = f" ({status.detail})" if status.detail else ""
        return PartFailed(
            f"{status.name} does not come up: {what}{why}; the end of {log}:\n{_tail(log)}"
        )


def _judge(stack: Stack, processes: Mapping[str, ProcessInfo] | None = None) -> list[PartStatus]:
    supervisor = stack.supervisor
    if processes is None:
        running = supervisor.is_running()
        processes = {i.name: i for i in supervisor.list_parts()} if running else {}
    # Proxies of the shell are not for loopback.
    with httpx.Client(trust_env=False) as client:
        started = [part for part in stack.parts if _runs(processes.get(part.name))]
        answers = health.ask(started, client, lambda: stores.read_heartbeats(stack.record))
    since = _started_at(stack.paths)
    crashes = read_crashes(stack.paths.crashes, since=since)
    return [
        health.judge(part, processes.get(part.name), answers, crashes.get(part.name))
        for part in stack.parts
    ]


def _runs(process: ProcessInfo | None) -> bool:
    return process is not None and process.state == "RUNNING"


def _started_at(paths: StatePaths) -> datetime:
    """Return when the supervisor was started: it writes its pid file then, and only then."""
    try:
        return datetime.fromtimestamp(paths.supervisor_pid.stat().st_mtime, tz=UTC)
    except FileNotFoundError:
        return datetime.now(UTC)


def _tail(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return "  (no log)"
    return "\n".join(f"  {line}" for line in lines[-_LOG_LINES:])


@contextlib.contextmanager
def _locked(paths: StatePaths) -> Iterator[None]:
    """Let one command at a time change a stack; a second one waits."""
    with paths.lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Treat a request to end like Ctrl-C, so that it cleans up as well."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handlers({signal.SIGTERM: interrupt, signal.SIGHUP: interrupt}):
        yield


@contextlib.contextmanager
def _uninterruptible() -> Iterator[None]:
    """Finish cleaning up: a second Ctrl-C would leave something running."""
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    with _handlers(dict.fromkeys(wanted, signal.SIG_IGN)):
        yield


@contextlib.contextmanager
def _handlers(handlers: Mapping[signal.Signals, object]) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in handlers}
    for number, handler in handlers.items():
        signal.signal(number, handler)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
