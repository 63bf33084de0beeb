"""Emulators whose pods have a real sshd, and a client for it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from fakes.runpod.process import SSHD
from fakes.runpod.server import Admin, EmulatorProcess
from touchstone.core.pods import Pod, PodOrder
from touchstone.hooks.runpod.api import Account
from touchstone.hooks.runpod.rest import RestPodApi
from waiting import wait_for

OPTIONS = (
    *("-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"),
    *("-o", "UserKnownHostsFile=/dev/null"),
)
IMPATIENT = (
    *("-o", "ConnectTimeout=3", "-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=3"),
    *("-o", "LogLevel=INFO"),
)
"""For where nobody answers, and says so; on a busy machine it gives up on others, too."""


@dataclass(frozen=True)
class SshResult:
    """What a command over SSH came to; 255 is SSH's own failure."""

    code: int
    output: str
    errors: str


class SshClient:
    """The ``ssh`` program with a key of its own."""

    def __init__(self, folder: Path) -> None:
        self._key = folder / "key"
        self._known = folder / "known_hosts"
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self._key)], check=True
        )
        self.public_key = (folder / "key.pub").read_text().strip()

    def build_command(self, port: int, command: str, *options: str) -> list[str]:
        """Return the command line."""
        where = ["-i", str(self._key), "-p", str(port), "root@127.0.0.1"]
        # What is said first holds.
        return ["ssh", *options, *OPTIONS, *where, command]

    def run(self, port: int, command: str, *options: str, text: str = "") -> SshResult:
        """Run a command in a pod, with a text on its standard input."""
        done = subprocess.run(
            self.build_command(port, command, *options),
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        return SshResult(done.returncode, done.stdout.strip(), done.stderr.strip())

    def start(self, port: int, command: str, *options: str) -> subprocess.Popen[str]:
        """Start a command in a pod."""
        return subprocess.Popen(
            self.build_command(port, command, *options),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def scan_host_key(self, port: int) -> str:
        """Return the pod's host key."""
        done = subprocess.run(
            ["ssh-keyscan", "-T", "120", "-t", "ed25519", "-p", str(port), "127.0.0.1"],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.split()[-1]


@dataclass(frozen=True)
class World:
    """An emulator with process pods, an account on it and a client for its pods."""

    emulator: EmulatorProcess
    api: RestPodApi
    ssh: SshClient

    @property
    def admin(self) -> Admin:
        """Return the emulator's own API."""
        return self.emulator.admin

    def rent(self, name: str = "touchstone-test-a", **env: str) -> Pod:
        """Order a pod that lets our key in."""
        env = {"PUBLIC_KEY": self.ssh.public_key, **env}
        return self.api.create_pod(PodOrder(name=name, image="trainer:1", gpu="NVIDIA L4", env=env))

    def wait_port(self, pod: Pod) -> int:
        """Return the port of a pod's sshd as soon as the API tells it."""
        return wait_for(f"{pod.name} has a way in", lambda: self.api.get_pod(pod.id).ssh).port

    def wait_boots(self, pod_id: str, boots: int) -> None:
        """Wait until a pod's container was started so many times."""
        wait_for(
            f"it is started {boots} times",
            lambda: self.admin.ask("GET", f"/pods/{pod_id}")["boots"] == boots,
        )

    def run(self, pod: Pod, command: str, *options: str) -> SshResult:
        """Run a command in a pod."""
        return self.ssh.run(self.wait_port(pod), command, *options)


@pytest.fixture(scope="session")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> SshClient:
    if not Path(SSHD).exists() or shutil.which("ssh") is None:
        pytest.skip("NO SSH (apt install openssh-server openssh-client): pods were NOT tested")
    if shutil.which("pgrep") is None:
        pytest.skip("NO PGREP (apt install procps): pods were NOT tested")
    return SshClient(tmp_path_factory.mktemp("ssh"))


@contextmanager
def open_world(folder: Path, ssh: SshClient, pods: str, *arguments: str) -> Iterator[World]:
    """Start an emulator with pods of a kind, and stop it."""
    emulator = EmulatorProcess(folder, "--pods", pods, "--rate-limit", "none", *arguments)
    try:
        emulator.start()
        with RestPodApi(Account(api_key="rpa_test", url=emulator.url)) as api:
            yield World(emulator, api, ssh)
    finally:
        emulator.stop()


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory, ssh: SshClient) -> Iterator[World]:
    with open_world(tmp_path_factory.mktemp("runpod"), ssh, "process") as world:
        yield world


@pytest.fixture
def world(shared_world: World) -> Iterator[World]:
    """A world that is as new before the next test, whatever became of this one."""
    yield shared_world
    shared_world.admin.reset()


def find_processes(marker: str) -> list[int]:
    """Return the processes of this machine with a marker in their command line."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                line = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if marker.encode() in line and b"ssh" not in line.split(b"\0")[0]:
                found.append(int(folder.name))
    return found


def pytest_terminal_summary(terminalreporter):
    """Print what became of the tasks of the fault campaign, one line for each fault."""
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    properties = [value for report in reports for name, value in report.user_properties]
    rows = sorted(
        (row for row in properties if isinstance(row, dict)), key=lambda row: row["fault"]
    )
    if not rows:
        return
    terminalreporter.section("fault campaign")
    width = max(len(row["fault"]) for row in rows)
    names = [name for name in rows[0] if name != "fault"]
    terminalreporter.write_line(" ".join([f"{'fault':<{width}}", *names]))
    for row in rows:
        cells = [f"{row[name]:>{len(name)}}" for name in names]
        terminalreporter.write_line(" ".join([f"{row['fault']:<{width}}", *cells]))
    totals = [f"{sum(float(row[name]) for row in rows):>{len(name)}.10g}" for name in names]
    terminalreporter.write_line(" ".join([f"{'all':<{width}}", *totals]))
