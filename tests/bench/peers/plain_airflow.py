"""A plain Airflow beside which ours is measured: packages, configuration and processes its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import docker
import httpx
import psutil

from bench.peers.engine import IMAGE
from bench.peers.patience import wait_within
from system.installation import REPOSITORY

AIRFLOW = "apache-airflow==3.3.2"
DOCKER_PROVIDER = "apache-airflow-providers-docker==4.6.1"
EDGE_PROVIDER = "apache-airflow-providers-edge3==5.1.0"

_HOST_VARIABLES = ("PATH", "HOME", "LANG", "TZ", "DOCKER_HOST", "DOCKER_TLS_VERIFY")


@dataclass(frozen=True, kw_only=True)
class PeerKind:
    """
    A way to run containers from Airflow.

    :param requirements: Packages, pinned; everything else is held at our own lock's versions.
    :param settings: Configuration beyond Airflow's defaults.
    :param has_edge_worker: Whether tasks run in an edge worker.
    """

    name: str
    requirements: tuple[str, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    has_edge_worker: bool = False


LOCAL = PeerKind(name="docker", requirements=(AIRFLOW, DOCKER_PROVIDER))
EDGE = PeerKind(
    name="edge",
    requirements=(AIRFLOW, DOCKER_PROVIDER, EDGE_PROVIDER),
    settings={
        "AIRFLOW__CORE__EXECUTOR": "airflow.providers.edge3.executors.EdgeExecutor",
        "AIRFLOW__EDGE__API_ENABLED": "True",
    },
    has_edge_worker=True,
)


def get_cache() -> Path:
    """Return the folder of the throwaway environments; deleting it costs a minute."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "touchstone-bench")


def prepare_environment(kind: PeerKind) -> Path:
    """Return the peer's virtual environment, made if it is not there; ours stays as it is."""
    uv = str(REPOSITORY / ".tools" / "bin" / "uv")
    venv = get_cache() / "-".join(part.rsplit("==", 1)[1] for part in kind.requirements)
    done = venv / "complete"
    if done.exists():
        return venv
    constraints = subprocess.run(
        [
            *(uv, "export", "--quiet", "--frozen", "--no-emit-local"),
            *("--no-header", "--no-hashes", "--no-annotate", "--project", str(REPOSITORY)),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", "3.11", str(venv)], check=True)
    (venv / "constraints.txt").write_text(constraints)
    subprocess.run(
        [
            *(uv, "pip", "install", "--quiet", "--python", str(venv / "bin" / "python")),
            *("--constraint", str(venv / "constraints.txt"), *kind.requirements),
        ],
        check=True,
    )
    done.touch()
    return venv


class PeerAirflow:
    """
    A running Airflow of Airflow's own defaults, on SQLite, until the block ends.

    :param kind: What runs the containers.
    :param slots: Of the pool that the tasks share.
    :param tasks: How many there are.
    :param seconds: How long each container sleeps.
    :param settings: Further configuration, as environment variables.
    """

    def __init__(
        self,
        kind: PeerKind,
        *,
        slots: int,
        tasks: int,
        seconds: int,
        settings: Mapping[str, str],
    ) -> None:
        self.kind = kind
        self.label = f"{kind.name}-{secrets.token_hex(4)}"
        self._slots = slots
        self._venv = prepare_environment(kind)
        self._folder = tempfile.TemporaryDirectory(prefix="touchstone-bench-")
        self._home = Path(self._folder.name)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        port = _find_port()
        self._url = f"http://127.0.0.1:{port}"
        host = {name: os.environ[name] for name in _HOST_VARIABLES if name in os.environ}
        self._environment = {
            **host,
            # The operator finds its own programs, and not those of the environment we run in.
            "PATH": f"{self._venv / 'bin'}:{host.get('PATH', '/usr/bin:/bin')}",
            "AIRFLOW_HOME": str(self._home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(Path(__file__).parent / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self._url}/execution/",
            # The default of five seconds ends in errors on a busy machine.
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self._home}/airflow.db?timeout=60",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__BASE_URL": self._url,
            "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW__EDGE__API_URL": f"{self._url}/edge_worker/v1/rpcapi",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "BENCH_IMAGE": IMAGE,
            "BENCH_LABEL": self.label,
            "BENCH_TASKS": str(tasks),
            "BENCH_SECONDS": str(seconds),
            **kind.settings,
            **settings,
        }

    def __enter__(self) -> PeerAirflow:
        try:
            self._run("db", "migrate")
            self._run("pools", "set", "bench", str(self._slots), "benchmark")
            self._start("api-server")
            self._start("scheduler", "--skip-serve-logs")
            self._start("dag-processor")
            wait_within(240, f"{self.kind.name}: the DAG is there", self._has_dag)
            if self.kind.has_edge_worker:
                self._start("edge", "worker", "--edge-hostname", "bench")
                log = self._home / "edge.log"
                wait_within(60, "the edge worker is ready", lambda: log.stat().st_size)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def trigger(self) -> str:
        """Start a run of the tasks; return its id."""
        answer = self._api.post("/dags/handover/dagRuns", json={"logical_date": None})
        return str(answer.raise_for_status().json()["dag_run_id"])

    def wait(self, run_id: str, *, seconds: float) -> None:
        """
        Wait until a run has ended.

        :raises AssertionError: If it failed, or takes longer.
        """
        path = f"/dags/handover/dagRuns/{run_id}"
        ends = {"success", "failed"}

        def find_end() -> str | None:
            state = self._api.get(path).raise_for_status().json()["state"]
            return state if state in ends else None

        state = wait_within(seconds, f"{self.kind.name} has ended", find_end, every=2)
        if state != "success":
            raise AssertionError(f"{self.kind.name}: the run {state}:\n{self._read_task_log()}")

    def find_processes(self, part: str) -> list[psutil.Process]:
        """Return a part's process and all below it."""
        process = psutil.Process(self._processes[part].pid)
        return [process, *process.children(recursive=True)]

    def count_containers(self) -> int:
        """Return how many of the run's containers run now."""
        client = docker.from_env()
        try:
            return len(client.containers.list(filters=self._mine, ignore_removed=True))
        finally:
            client.close()

    def stop(self) -> None:
        """End what this started, and only that; remove its containers."""
        mine: list[psutil.Process] = []
        for part in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                mine += self.find_processes(part)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in mine:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            _, mine = psutil.wait_procs(mine, timeout=15)
        for popen in self._processes.values():
            popen.wait()
        self._processes.clear()
        client = docker.from_env()
        for container in client.containers.list(all=True, filters=self._mine, ignore_removed=True):
            container.remove(force=True)
        client.close()
        self._folder.cleanup()

    @property
    def _mine(self) -> dict[str, str]:
        return {"label": f"bench={self.label}"}

    # --- inside ----------------------------------------------------------------------------

    def _run(self, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._venv / "bin" / "airflow"), *arguments],
            env=self._environment,
            cwd=self._home,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"airflow {' '.join(arguments)}: {done.stdout}{done.stderr}")

    def _start(self, part: str, *arguments: str) -> None:
        with (self._home / f"{part}.log").open("wb") as log:
            self._processes[part] = subprocess.Popen(
                [str(self._venv / "bin" / "airflow"), part, *arguments],
                env=self._environment,
                cwd=self._home,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches this script alone, which then ends them in order.
                start_new_session=True,
            )

    def _read_task_log(self) -> str:
        logs = sorted(self._home.glob("logs/dag_id=*/**/*.log"))
        return logs[0].read_text(errors="replace")[-3000:] if logs else "no task has a log"

    @property
    def _api(self) -> httpx.Client:
        token = httpx.get(f"{self._url}/auth/token", timeout=30).raise_for_status().json()
        return httpx.Client(
            base_url=f"{self._url}/api/v2",
            headers={"Authorization": f"Bearer {token['access_token']}"},
            timeout=30,
        )

    def _has_dag(self) -> bool:
        for part, process in self._processes.items():
            if process.poll() is not None:
                tail = (self._home / f"{part}.log").read_text(errors="replace")[-3000:]
                raise RuntimeError(f"{self.kind.name}: {part} has ended:\n{tail}")
        with contextlib.suppress(httpx.HTTPError):
            return self._api.get("/dags/handover").status_code == httpx.codes.OK
        return False


def _find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
