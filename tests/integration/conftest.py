"""Real parts for integration tests: SQS, S3 and DynamoDB over real connections."""

from __future__ import annotations

import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.ports import find_free_port
from waiting import find_exit, wait_for

REPOSITORY = Path(__file__).parents[2]
AIRFLOWS = {"airflow", "real_airflow", "postgresql_airflow"}
PROGRAM = REPOSITORY / ".venv-emulator/bin/ministack"


class MiniStack:
    """
    MiniStack on a free port of the loopback interface, keeping its state over restarts.

    :param folder: Where it keeps everything.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = find_free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return its endpoint."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self._folder / "ministack.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(PROGRAM)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=self._build_environment(),
                start_new_session=True,
            )
        wait_for("MiniStack answers", self._is_answering, unless=self.find_end)

    def stop(self) -> None:
        """Stop it as an administrator does; queued messages, items and objects are kept."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGTERM)
            process.wait()

    def find_end(self) -> str | None:
        """Say that it has ended, and what it said last; ``None`` while it runs."""
        if self._process is None:
            return "it was stopped"
        end = find_exit(self._process)
        log = self._folder / "ministack.log"
        return end and f"{end}: {log.read_text(errors='replace')[-2000:]}"

    def _is_answering(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/_ministack/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _build_environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            "BIND_HOST": "127.0.0.1",
            "MINISTACK_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self._port),
            "SERVICES": "sqs,s3,dynamodb,sts,iam",
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            # It removes containers it takes for its own from any engine it finds: show it none.
            "DOCKER_HOST": f"unix://{self._folder / 'no-engine.sock'}",
            "PERSIST_STATE": "1",
            "STATE_DIR": str(self._folder / "state"),
            "S3_PERSIST": "1",
            "S3_DATA_DIR": str(self._folder / "objects"),
            "LOG_LEVEL": "WARNING",
        }


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """
    Keep tests together that share what is expensive to make, with ``--dist=loadgroup``.

    Otherwise each process makes an emulator for each module, and Airflow's tables twice.
    """
    for item in items:
        if item.get_closest_marker("xdist_group"):
            # Two groups make a third one, and what the module shares is made once more.
            continue
        if "shared_world" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
        elif AIRFLOWS & set(item.fixturenames):
            item.add_marker(pytest.mark.xdist_group("airflow"))


@pytest.fixture(scope="session")
def ministack_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MiniStack]:
    """A running MiniStack that a test may stop and start."""
    if not PROGRAM.exists():
        pytest.fail(
            "MiniStack is not installed: UV_PROJECT_ENVIRONMENT=.venv-emulator "
            "uv sync --frozen --only-group emulator"
        )
    server = MiniStack(tmp_path_factory.mktemp("ministack"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def ministack(ministack_server: MiniStack) -> str:
    """Endpoint of SQS, S3 and DynamoDB."""
    return ministack_server.url
