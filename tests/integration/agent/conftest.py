"""A real agent as a process of its own, on real queues, against a small control plane."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes.control_plane import ControlPlane
from fakes.images import RUNNER, RUNNER_IMAGE, build_script_image
from touchstone_agent.protocol.messages import AttemptRef
from waiting import find_exit


class AgentProcess:
    """
    The daemon as it runs on a server.

    :param folder: Its settings, keys and state.
    :param plane: Its control plane.
    :param runtime: ``docker`` or ``process``.
    """

    def __init__(self, folder: Path, plane: ControlPlane, runtime: str) -> None:
        self.folder = folder
        self.plane = plane
        self.runtime = runtime
        self.options: dict[str, Any] = {
            "slots": 2,
            "heartbeat_seconds": 1,
            "log_flush_seconds": 0.2,
            "gpu": "none",
        }
        self.docker: dict[str, Any] = {"pull": False}
        self.process: dict[str, Any] = {}
        self.command = ["/bin/sh", str(RUNNER)]
        self.more = ""
        """Further tables of its settings, as TOML."""
        self._process: subprocess.Popen[bytes] | None = None
        plane.unless = self.find_end

    @property
    def config(self) -> Path:
        """Return its settings file."""
        return self.folder / "agent.toml"

    @property
    def pid(self) -> int:
        """Return its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """Return what it has logged so far, over all its starts."""
        return (self.folder / "agent.log").read_text()

    def write_config(self) -> None:
        """Write settings and keys."""
        key = self.folder / "server.key"
        key.write_text(self.plane.server_private_key)
        key.chmod(0o600)
        top = {
            "env": self.plane.env,
            "server": self.plane.server,
            "state_dir": "state",
            "private_key_file": "server.key",
            "control_public_key": self.plane.public_key,
            "runtime": self.runtime,
            "images_allowed": ["*"],
            **self.options,
        }
        tables = {
            "sqs": {"endpoint_url": self.plane.endpoint_url},
            "docker": self.docker,
            "process": {"command": self.command, **self.process},
        }
        lines = [f"{name} = {json.dumps(value)}" for name, value in top.items()]
        for table, values in tables.items():
            lines += [f"[{table}]", *(f"{k} = {json.dumps(v)}" for k, v in values.items())]
        self.config.write_text("\n".join([*lines, self.more]))

    def start(self, *, fault: str | None = None) -> AgentProcess:
        """Start it; with a fault point, it kills itself there."""
        self.write_config()
        program = [sys.executable, "-m", "touchstone_agent"]
        if fault is not None:
            program = [sys.executable, str(Path(__file__).with_name("faulty_agent.py")), fault]
        with (self.folder / "agent.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*program, "run", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._build_environment(),
            )
        return self

    def kill(self) -> None:
        """End it as a crash does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def terminate(self) -> None:
        """End it as an administrator does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()

    def wait(self) -> int:
        """Wait until it has ended by itself."""
        assert self._process is not None
        return self._process.wait()

    def find_end(self) -> str | None:
        """Say that it has ended, and what it said last; ``None`` while it runs or never ran."""
        end = find_exit(self._process) if self._process is not None else None
        return end and f"{end}: {self.log[-2000:]}"

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of it."""
        return subprocess.run(
            [
                *(sys.executable, "-m", "touchstone_agent", command),
                *("--config", str(self.config), *arguments),
            ],
            capture_output=True,
            text=True,
            check=False,
            env=self._build_environment(),
        )

    def close(self) -> None:
        """End it and everything it runs."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        if self.config.exists():
            done = self.run("purge")
            assert done.returncode == 0, done.stderr

    def find_output(self, ref: AttemptRef, name: str) -> Path | None:
        """Return a file that an attempt has written and that is still here."""
        folders = self.folder.glob(f"state/attempts/{ref.container_name(self.plane.env)}/out")
        return next((file for folder in folders if (file := folder / name).exists()), None)

    def let_go(self, ref: AttemptRef) -> None:
        """Let the scenario ``held`` come to its end."""
        console = self.find_output(ref, "console.log")
        assert console is not None
        console.with_name("go").touch()

    def _build_environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_EC2_METADATA_DISABLED": "true",
            **{name: os.environ[name] for name in ("DOCKER_HOST",) if name in os.environ},
        }

    def find_containers(self) -> list[str]:
        """Return what runs for this environment, by name, as the runtime itself sees it."""
        prefix = f"touchstone-{self.plane.env}-"
        if self.runtime == "docker":
            done = subprocess.run(
                ["docker", "ps", "-a", "--format", "{{.Names}}", "--filter", f"name={prefix}"],
                capture_output=True,
                text=True,
                check=True,
            )
            return sorted(done.stdout.split())
        names = set()
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                names.update(_find_names(folder, prefix))
        return sorted(names)


def _find_names(folder: Path, prefix: str) -> list[str]:
    try:
        if " Z " in (folder / "stat").read_text().rpartition(")")[2][:4]:
            return []
        entries = (folder / "environ").read_bytes().split(b"\0")
    except OSError:
        return []
    values = [e.partition(b"=") for e in entries]
    return [
        v.decode() for k, _, v in values if k == b"TOUCHSTONE_CONTAINER" and prefix in v.decode()
    ]


@pytest.fixture(scope="session")
def docker_image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The test runner as an image, made without any registry."""
    return build_script_image(RUNNER_IMAGE, RUNNER, tmp_path_factory.mktemp("image"))


@pytest.fixture(
    params=["process", pytest.param("docker", marks=pytest.mark.docker)], ids=lambda name: name
)
def runtime_name(request: pytest.FixtureRequest) -> str:
    """Each runtime in turn."""
    name: str = request.param
    if name == "docker":
        request.getfixturevalue("docker_image")
    return name


@pytest.fixture
def plane(ministack: str) -> Iterator[ControlPlane]:
    """A control plane of its own environment."""
    # A server's queues are named by the server alone, so each test has its own server, too.
    plane = ControlPlane(ministack, server=f"box-{os.urandom(4).hex()}")
    try:
        yield plane.open()
    finally:
        plane.close()


@pytest.fixture
def stopped_agent(tmp_path: Path, plane: ControlPlane, runtime_name: str) -> Iterator[AgentProcess]:
    """An agent that was not started yet; what it leaves is removed."""
    agent = AgentProcess(tmp_path, plane, runtime_name)
    yield agent
    agent.close()


@pytest.fixture
def agent(stopped_agent: AgentProcess) -> AgentProcess:
    """A running agent with two slots."""
    return stopped_agent.start()
