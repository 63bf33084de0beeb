"""Bring a stack up, tell how it is, and take it down without leaving anything behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

from touchstone.stack import leftovers, stores
from touchstone.stack.configuring import Stack, UpOptions, configure, load_stack, refuse_rival
from touchstone.stack.health import PartStatus
from touchstone.stack.interrupts import interruptible, uninterruptible
from touchstone.stack.layout import StatePaths, find_record, tool, write_private
from touchstone.stack.programs import LISTENER, Part
from touchstone.stack.supervisor import SupervisorError
from touchstone.stack.waiting import POLL_SECONDS, PartFailed, Report, Waiter, judge, tail

_DAG_SECONDS = 60


def up(paths: StatePaths, options: UpOptions, report: Report) -> list[PartStatus]:
    """
    Start what does not run, restart what has changed, and return when everything works.

    If this call started the supervisor and is interrupted or fails, nothing is left running.

    :raises ConfigurationError: If a configured port is in use, or another stack of the same
        environment runs here.
    :raises PartFailed: If a part does not come up.
    """
    refuse_rival(paths, options)
    paths.make()
    with _locked(paths), interruptible():
        stack = configure(paths, options)
        was_running = stack.supervisor.is_running()
        try:
            return _bring_up(stack, report)
        except BaseException:
            if not was_running:
                with uninterruptible():
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
    with _locked(paths), uninterruptible():
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
    return judge(load_stack(paths))


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
    wait = Waiter(stack, report)
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
        time.sleep(POLL_SECONDS)
    report("dag", f"{stores.DAG_ID} is there")


def _take_down(stack: Stack, report: Report) -> int:
    supervisor = stack.supervisor
    if supervisor.is_running():
        names = [part.name for part in stack.parts]
        # First the parts that could start something new.
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
            raise PartFailed(f"airflow db migrate failed; the end of {log}:\n{tail(log)}")
        record = stack.record.model_copy(update={"airflow_version": installed})
        write_private(paths.record, record.model_dump_json(indent=2) + "\n")
        report("airflow-db", f"migrated to {installed}")

    try:
        yield finish
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def _locked(paths: StatePaths) -> Iterator[None]:
    """Let one command at a time change a stack; a second one waits."""
    with paths.lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
