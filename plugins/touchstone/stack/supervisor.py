"""The one place that talks to the supervisor."""

from __future__ import annotations

import http.client
import subprocess
import time
import xmlrpc.client
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import Faults, SupervisorTransport

from touchstone.stack.layout import tool
from touchstone_agent.protocol.errors import PermanentError

_ALREADY = frozenset({Faults.ALREADY_STARTED, Faults.ALREADY_ADDED, Faults.NOT_RUNNING})
_UNREACHABLE = (OSError, http.client.HTTPException)
_START_SECONDS = 20


class SupervisorError(PermanentError):
    """The supervisor refused or could not be started; its message says what to look at."""


@dataclass(frozen=True, kw_only=True)
class ProcessInfo:
    """
    What the supervisor knows of one part.

    :param name: The part.
    :param state: The supervisor's state name, for example ``RUNNING`` or ``BACKOFF``.
    :param pid: Its process, 0 if there is none.
    :param started_at: When it was last started, seconds since the epoch.
    :param uptime_seconds: How long it has been running, 0 if it is not.
    :param error: Why it could not be started, if it could not.
    """

    name: str
    state: str
    pid: int
    started_at: int
    uptime_seconds: int
    error: str


class Supervisor:
    """
    A supervisor behind its control socket.

    :param socket: The control socket.
    :param config: Its configuration file.
    """

    def __init__(self, socket: Path, config: Path) -> None:
        self._socket = socket
        self._config = config

    def is_running(self) -> bool:
        """Return whether a supervisor answers."""
        if not self._socket.exists():
            return False
        try:
            self._call("getState")
        except SupervisorError:
            return False
        return True

    def start(self, environment: Mapping[str, str]) -> None:
        """
        Start the supervisor in the background; it starts no part by itself.

        :param environment: Its environment.
        :raises SupervisorError: If it does not answer.
        """
        command = [tool("supervisord"), "-c", str(self._config)]
        done = subprocess.run(
            command,
            env=dict(environment),
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise SupervisorError(f"supervisord did not start: {done.stdout}{done.stderr}".strip())
        deadline = time.monotonic() + _START_SECONDS
        while not self.is_running():
            if time.monotonic() > deadline:
                raise SupervisorError(f"supervisord does not answer on {self._socket}")
            time.sleep(0.1)

    def apply_config(self) -> frozenset[str]:
        """
        Make a running supervisor follow its configuration file.

        :return: The parts that are new or have changed; the changed ones have been stopped.
        """
        ((added, changed, removed),) = self._call("reloadConfig")
        self.stop_parts((*changed, *removed))
        for name in (*changed, *removed):
            self._call("removeProcessGroup", name)
        for name in (*added, *changed):
            self._call("addProcessGroup", name)
        return frozenset((*added, *changed))

    def start_part(self, name: str) -> None:
        """Start a part without waiting for it; nothing happens if it runs."""
        self._call("startProcess", name, False)

    def stop_parts(self, names: Iterable[str]) -> None:
        """Stop parts at the same time and return when all have ended."""
        waiting = set(names)
        for name in waiting:
            self._call("stopProcess", name, False)
        # The supervisor kills what does not stop in its time, so this ends.
        while any(info.pid for info in self.list_parts() if info.name in waiting):
            time.sleep(0.2)

    def list_parts(self) -> list[ProcessInfo]:
        """Return what the supervisor knows of each of its processes."""
        return [
            ProcessInfo(
                name=info["name"],
                state=info["statename"],
                pid=info["pid"],
                started_at=info["start"],
                uptime_seconds=max(0, info["now"] - info["start"]) if info["pid"] else 0,
                error=info["spawnerr"],
            )
            for info in self._call("getAllProcessInfo")
        ]

    def get_pid(self) -> int:
        """Return the supervisor's own process."""
        return int(self._call("getPID"))

    def shut_down(self) -> None:
        """Ask the supervisor to stop what still runs, and to end."""
        self._call("shutdown")

    def _call(self, method: str, *arguments: Any) -> Any:
        # The library wants an address here and then uses its transport's.
        proxy = xmlrpc.client.ServerProxy(
            "http://127.0.0.1",
            transport=SupervisorTransport(None, None, f"unix://{self._socket}"),
        )
        try:
            return getattr(proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode in _ALREADY:
                return True
            raise SupervisorError(f"supervisor, {method}: {fault.faultString}") from fault
        except _UNREACHABLE as error:
            raise SupervisorError(
                f"the supervisor does not answer on {self._socket}: {error}"
            ) from error
