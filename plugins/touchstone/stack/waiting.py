"""Waits until the parts of a stack work, and tells how each is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import httpx

from touchstone.stack import health, stores
from touchstone.stack.configuring import Stack
from touchstone.stack.crashes import read_crashes
from touchstone.stack.health import PartStatus
from touchstone.stack.layout import StatePaths
from touchstone.stack.supervisor import ProcessInfo
from touchstone_agent.protocol.errors import PermanentError

POLL_SECONDS = 0.4
_UP_SECONDS = 600
"""For a part that runs and says nothing; one that ends is reported at once. Slow is no failure."""
_LOG_LINES = 25
_FAILED_STARTS = 3
"""So often a part may end while starting before ``up`` gives up; one may be chance."""

Report = Callable[[str, str], None]
"""Takes a part's name and one line about it, while something goes on."""


class PartFailed(PermanentError):
    """A part does not come up; the message holds the end of its log."""


class Waiter:
    """
    Waits for parts, reports each once when it works, and knows when waiting is in vain.

    :param stack: Whose parts.
    :param report: Told each part that works.
    """

    def __init__(self, stack: Stack, report: Report) -> None:
        self._stack = stack
        self._report = report
        self._since = time.monotonic()
        self._reported: set[str] = set()
        self._failed_starts: dict[str, set[int]] = {}

    def until_healthy(self, names: set[str]) -> list[PartStatus]:
        """
        Return how all parts are once those named work.

        :raises PartFailed: If one of all does not come up.
        """
        deadline = time.monotonic() + _UP_SECONDS
        while True:
            processes = {info.name: info for info in self._stack.supervisor.list_parts()}
            statuses = judge(self._stack, processes)
            for status in statuses:
                self._announce(status)
            waiting = [s for s in statuses if s.name in names and not s.is_healthy]
            if not waiting:
                return statuses
            for status in statuses:
                self._check(status, processes.get(status.name))
            if time.monotonic() > deadline:
                status = waiting[0]
                raise self._failure(status, f"{status.state} after {_UP_SECONDS} s")
            time.sleep(POLL_SECONDS)

    def _announce(self, status: PartStatus) -> None:
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
            f"{status.name} does not come up: {what}{why}; the end of {log}:\n{tail(log)}"
        )


def judge(stack: Stack, processes: Mapping[str, ProcessInfo] | None = None) -> list[PartStatus]:
    """
    Return how each part is.

    :param processes: What the supervisor has told; asked again without.
    """
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


def tail(path: Path) -> str:
    """Return the end of a log, for a message."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return "  (no log)"
    return "\n".join(f"  {line}" for line in lines[-_LOG_LINES:])
