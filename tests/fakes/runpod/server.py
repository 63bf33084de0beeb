"""An emulator for a test: in a thread, or as a program of its own that can be killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx

from fakes.ports import find_free_port
from fakes.runpod.admin import PREFIX, TOKEN_HEADER
from fakes.runpod.app import Config, build_server
from waiting import find_exit, wait_for

TESTS = Path(__file__).parents[2]
TOKEN = "emulator-token"


class Admin:
    """
    The emulator's own API.

    :param url: Where the emulator is.
    :param token: Its token.
    """

    def __init__(self, url: str, token: str) -> None:
        self._client = httpx.Client(
            base_url=f"{url}{PREFIX}", headers={TOKEN_HEADER: token}, timeout=None
        )

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """Return the answer of any route."""
        response = self._client.request(method, path, **options)
        response.raise_for_status()
        return response.json() if response.content else None

    def add_fault(self, kind: str, *, count: int | None = 1, **options: Any) -> str:
        """Let something go wrong; return the rule's id."""
        body = {"kind": kind, "count": count, **options}
        rule_id: str = self.ask("POST", "/faults", json=body)["id"]
        return rule_id

    def count_hits(self) -> dict[str, int]:
        """Return how often each kind of fault has happened."""
        hits: dict[str, int] = {}
        for rule in self.ask("GET", "/faults"):
            hits[rule["kind"]] = hits.get(rule["kind"], 0) + rule["hits"]
        return hits

    def clear_faults(self) -> None:
        """Let everything be well."""
        self.ask("DELETE", "/faults")

    def inject(self, pod_id: str, kind: str, **params: Any) -> None:
        """Let something happen to a pod."""
        self.ask("POST", f"/pods/{pod_id}/faults", json={"kind": kind, "params": params})

    def set_capacity(self, free: int, **which: str) -> None:
        """Set the free GPUs of what is named."""
        self.ask("PUT", "/capacity", json={"free": free, **which})

    def set_account(self, **values: Any) -> None:
        """Change the account."""
        self.ask("PUT", "/account", json=values)

    def list_pods(self) -> list[dict[str, Any]]:
        """Return the pods that are alive in truth."""
        pods: list[dict[str, Any]] = self.ask("GET", "/pods")
        return pods

    def get_ledger(self, pod_id: str | None = None) -> dict[str, Any]:
        """Return the bill."""
        params = {"pod_id": pod_id} if pod_id else {}
        ledger: dict[str, Any] = self.ask("GET", "/ledger", params=params)
        return ledger

    def push_clock(self, seconds: float) -> None:
        """Let time pass."""
        self.ask("POST", "/clock", json={"seconds": seconds})

    def reset(self) -> None:
        """Make it as new, whatever has happened; the bill stays."""
        self.ask("POST", "/reset")


class EmulatorThread:
    """
    An emulator in this process.

    :param config: How it is started; its port is chosen when it is 0.
    """

    def __init__(self, config: Config) -> None:
        self._server = build_server(config)
        # Bound here, so that the port is known before it serves.
        self._socket = socket.create_server((config.host, config.port))
        self.url = f"http://{config.host}:{self._socket.getsockname()[1]}"
        self.admin = Admin(self.url, (config.state_dir / "admin-token").read_text())
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True
        )

    def start(self) -> None:
        """Serve."""
        self._thread.start()
        wait_for(
            "the emulator serves",
            lambda: self._server.started,
            unless=lambda: not self._thread.is_alive() and "its thread has ended",
            every=0.01,
        )

    def stop(self) -> None:
        """Stop in order."""
        self._server.should_exit = True
        self._thread.join()


class EmulatorProcess:
    """
    An emulator as a program.

    :param state_dir: Where it keeps everything.
    :param arguments: More arguments.
    """

    def __init__(self, state_dir: Path, *arguments: str) -> None:
        self._port = find_free_port()
        self._state_dir = state_dir
        self._arguments = list(arguments)
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{self._port}"
        self.admin = Admin(self.url, TOKEN)

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "fakes.runpod", "--port", str(self._port)]
        command += ["--state-dir", str(self._state_dir), "--admin-token", TOKEN]
        self._state_dir.mkdir(parents=True, exist_ok=True)
        with (self._state_dir / "emulator.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._arguments],
                env={**os.environ, "PYTHONPATH": str(TESTS)},
                stdout=log,
                stderr=log,
            )
        wait_for("the emulator answers", self._is_answering, unless=self.find_end)

    def find_end(self) -> str | None:
        """Say that it has ended, and what it said last; ``None`` while it runs."""
        if self._process is None:
            return "it was stopped"
        end = find_exit(self._process)
        return end and f"{end}: {(self._state_dir / 'emulator.log').read_text()[-2000:]}"

    def kill(self) -> None:
        """End it as a crash does; its pods are left."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order, with its pods."""
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait()

    def _is_answering(self) -> bool:
        try:
            return httpx.get(f"{self.url}{PREFIX}/health", timeout=5).status_code == 200
        except httpx.TransportError:
            return False
