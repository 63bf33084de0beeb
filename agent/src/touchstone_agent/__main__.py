"""The command ``touchstone-agent``: builds the real parts and starts them."""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from uuid import uuid4

from touchstone_agent import logs
from touchstone_agent.adapters.clock import SystemClock
from touchstone_agent.adapters.files import remove_tree
from touchstone_agent.adapters.gpu import detect_gpus
from touchstone_agent.adapters.journal import Journal
from touchstone_agent.core.ports import Runtime
from touchstone_agent.logs import Log
from touchstone_agent.protocol.errors import ConfigurationError, TouchstoneError
from touchstone_agent.settings import AgentSettings, load_settings

M_ARENA_MAX = -8

log = Log("main")


def build_runtime(settings: AgentSettings) -> Runtime:
    """Build the runtime that the settings name; only its libraries are loaded."""
    if settings.runtime == "process":
        from touchstone_agent.adapters.process import ProcessRuntime

        return ProcessRuntime(
            settings.get_process(),
            env=settings.env,
            server=settings.server,
            attempts_dir=settings.attempts_dir,
        )
    from touchstone_agent.adapters.docker import DockerRuntime
    from touchstone_agent.adapters.pulled import PulledImages

    return DockerRuntime(
        settings.docker,
        env=settings.env,
        server=settings.server,
        min_free_bytes=settings.min_free_mib * 1024**2,
        pulled=PulledImages(settings.images_file, most_bytes=settings.docker.images_mib * 1024**2),
    )


@contextmanager
def hold_state_dir(settings: AgentSettings) -> Iterator[None]:
    """
    Make the state folder and keep every other agent out of it.

    :raises ConfigurationError: If another agent holds it.
    """
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings.attempts_dir.mkdir(mode=0o700, exist_ok=True)
    with (settings.state_dir / "agent.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"an agent is running with the state folder {settings.state_dir}; stop it first"
            ) from error
        yield


def is_running(settings: AgentSettings) -> bool:
    """Tell whether an agent holds the state folder, without taking it."""
    try:
        held = (settings.state_dir / "agent.lock").stat()
    except FileNotFoundError:
        return False
    # Taking the lock to find out could make an agent that starts just now believe it is not
    # alone, so the kernel's list of locks is read instead.
    ident = f"{os.major(held.st_dev):02x}:{os.minor(held.st_dev):02x}:{held.st_ino}"
    return any(ident in line for line in Path("/proc/locks").read_text().splitlines())


def run(settings: AgentSettings) -> int:
    """Run the daemon until a signal stops it."""
    from touchstone_agent.adapters.compiled import CompiledCache, read_boot
    from touchstone_agent.adapters.prepared import PreparedCache
    from touchstone_agent.adapters.private import HeldFolder, PrivateStore
    from touchstone_agent.adapters.sqs import Queues
    from touchstone_agent.adapters.transfer import Transfer
    from touchstone_agent.context import AgentContext
    from touchstone_agent.daemon import Agent
    from touchstone_agent.grants import GrantRequester
    from touchstone_agent.logins import LoginRequester
    from touchstone_agent.machine import measure_machine
    from touchstone_agent.outbox import Outbox

    _save_memory()
    # Containers run as another user; the state folder itself keeps all others out.
    os.umask(0o022)
    private_key, control_keys = settings.read_private_key(), settings.read_control_keys()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with hold_state_dir(settings):
        clock, epoch = SystemClock(), uuid4().hex
        machine = measure_machine(detect_gpus(settings.gpu))
        queues = Queues(settings.sqs)
        journal = Journal(settings.journal_file)
        outbox = Outbox(
            queues=queues,
            queue=settings.event_queue,
            env=settings.env,
            server=settings.server,
            key=private_key,
            journal=journal,
            clock=clock,
            epoch=epoch,
        )
        context = AgentContext(
            runtime=build_runtime(settings),
            grant_requester=GrantRequester(outbox, clock),
            logins=LoginRequester(outbox, clock, server=settings.server),
            transfer=Transfer(),
            outbox=outbox,
            clock=clock,
            env=settings.env,
            server=settings.server,
            instance=journal.instance,
            prepared=PreparedCache(
                settings.prepared_dir, most_bytes=settings.prepared_mib * 1024**2
            ),
            compiled=CompiledCache(
                settings.compiled_dir,
                most_bytes=settings.compilation_cache_mib * 1024**2,
                free_bytes=settings.min_free_mib * 1024**2,
                devices=machine.describe_gpus,
                boot=read_boot(),
            ),
            flush_seconds=settings.log_flush_seconds,
            stopping=stopping,
            private=PrivateStore(
                [HeldFolder(held=each.held, folder=each.folder) for each in settings.private_data],
                kept_dir=settings.private_dir,
                judge_python=settings.judge.python if settings.judge else None,
            ),
        )
        agent = Agent(
            settings,
            keys=control_keys,
            queues=queues,
            journal=journal,
            outbox=outbox,
            context=context,
            machine=machine,
            epoch=epoch,
        )
        log.info(
            "agent.started",
            env=settings.env,
            server=settings.server,
            epoch=epoch,
            version=metadata.version("touchstone-agent"),
        )
        agent.recover()
        agent.run()
        agent.leave()
        log.info("agent.stopped", counts=dict(agent.counts))
    sys.stderr.flush()
    # Threads that sleep in a long poll or in the engine need not be waited for: all they know is
    # in the journal.
    os._exit(0)


def _save_memory() -> None:
    """Keep glibc from giving each thread an arena of its own: it doubles an idle agent."""
    with suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


def doctor(settings: AgentSettings, *, as_json: bool = False, is_enrolled: bool = True) -> int:
    """
    Print one line for each thing the agent needs.

    :return: 0 if the agent can work here, 1 if not.
    """
    from touchstone_agent.preflight import run_checks

    results = run_checks(settings, build_runtime, is_enrolled=is_enrolled)
    if as_json:
        print(json.dumps([asdict(result) for result in results], indent=2))
    else:
        for result in results:
            word = "FAIL" if not result.is_ok else "WARN" if result.is_warning else "ok  "
            print(f"{word} {result.name}: {result.text}")
    return 0 if all(result.is_ok for result in results) else 1


def status(settings: AgentSettings, *, as_json: bool) -> int:
    """Print the slots and the attempts of the journal."""
    attempts = []
    if settings.journal_file.exists():
        journal = Journal(settings.journal_file)
        for attempt in journal.load():
            attempts.append(
                {
                    "name": attempt.ref.container_name(settings.env),
                    "submission_id": attempt.ref.submission_id,
                    "task_id": attempt.ref.task_id,
                    "attempt": attempt.ref.attempt,
                    "fence": attempt.ref.fence,
                    "slot_class": attempt.start.slot_class.value,
                    "holds_slot": attempt.holds_slot,
                    "gpus": list(attempt.gpu_ids),
                    "phase": attempt.phase.value,
                    "since": attempt.phase_at.isoformat(),
                    "reason": attempt.reason,
                    "console_bytes": attempt.console_cursor,
                }
            )
        unsent = len(journal.load_outbox())
        journal.close()
    else:
        unsent = 0
    report = {
        "env": settings.env,
        "server": settings.server,
        "runtime": settings.runtime,
        "is_running": is_running(settings),
        "slots": settings.slots,
        "validation_slots": settings.validation_slots,
        "unsent_events": unsent,
        "attempts": attempts,
    }
    if as_json:
        print(json.dumps(report, indent=2))
        return 0
    for key, value in report.items():
        if key != "attempts":
            print(f"{key}: {value}")
    for item in attempts:
        print(f"{item['name']}  {item['phase']}  since {item['since']}")
    return 0


def purge(settings: AgentSettings) -> int:
    """Stop and remove everything of this environment and server, with its folders."""
    with hold_state_dir(settings):
        runtime = build_runtime(settings)
        names = sorted(runtime.list_labels())
        for name in names:
            runtime.stop(name, grace_seconds=5)
            runtime.remove(name)
            print(f"removed {name}")
        for folder in settings.attempts_dir.iterdir():
            remove_tree(folder)
        remove_tree(settings.compiled_dir)
        journal = Journal(settings.journal_file)
        journal.clear()
        journal.close()
    print(f"{len(names)} attempts of {settings.env} on {settings.server} removed")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="touchstone-agent", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("run", "run the daemon"),
        ("doctor", "look whether everything it needs is there"),
        ("status", "tell what the journal knows; the daemon need not run"),
        ("purge", "remove every attempt of this environment and server; the daemon must not run"),
    ):
        # The word before was check.
        aliases = ["check"] if name == "doctor" else []
        command = commands.add_parser(name, help=text, description=text, aliases=aliases)
        command.add_argument("--config", type=Path, required=True, help="settings file (TOML)")
        if name in {"status", "doctor"}:
            command.add_argument("--json", action="store_true", help="print JSON")
        if name == "doctor":
            command.add_argument(
                "--machine",
                action="store_true",
                help="only the machine itself, without the keys, queues and images of enrolment",
            )
    arguments = parser.parse_args(argv)
    logs.configure(os.environ.get("TOUCHSTONE_AGENT_LOG_LEVEL", "INFO"))

    def examine(settings: AgentSettings) -> int:
        return doctor(settings, as_json=arguments.json, is_enrolled=not arguments.machine)

    actions: dict[str, Callable[[AgentSettings], int]] = {
        "run": run,
        "doctor": examine,
        "check": examine,
        "status": lambda settings: status(settings, as_json=arguments.json),
        "purge": purge,
    }
    try:
        return actions[arguments.command](load_settings(arguments.config))
    except TouchstoneError as error:
        print(f"touchstone-agent: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
