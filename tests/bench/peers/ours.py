"""An installation of ours for a benchmark, in a folder and an environment of its own."""

from __future__ import annotations

import json
import secrets
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from bench.peers.engine import IMAGE
from system.installation import EXAMPLES, Installation

SETTINGS = {"TOUCHSTONE_TRAINER_IMAGE": IMAGE, "TOUCHSTONE_TRAINING_MEMORY_MIB": "64"}

_LOCAL_BUNDLE = "airflow.dag_processing.bundles.local.LocalDagBundle"


@contextmanager
def run_installation(
    servers: Mapping[str, int],
    options: Mapping[str, str] | None = None,
    *,
    other_dags: Path | None = None,
    runtime: str = "docker",
) -> Iterator[Installation]:
    """
    Run a stack with a trainer that does as it is told, until the block ends.

    The image must have been made, if trainings run in containers.

    :param servers: Slots by server name.
    :param options: Further settings, as environment variables.
    :param other_dags: A folder of DAGs that have nothing to do with ours.
    :param runtime: What trainings run in.
    """
    with tempfile.TemporaryDirectory(prefix="touchstone-bench-") as folder:
        installation = Installation(
            Path(folder, "stack"), f"b{secrets.token_hex(3)}", {**SETTINGS, **(options or {})}
        )
        listed = ",".join(f"{name}={slots}" for name, slots in servers.items())
        if other_dags is not None:
            _add_dags(installation, other_dags)
        try:
            done = installation.run("up", "--runtime", runtime, "--servers", listed)
            if done.returncode:
                raise RuntimeError(f"the stack does not start:\n{done.stdout}\n{done.stderr}")
            yield installation
        finally:
            with ignore_interrupts():
                installation.run("down")


def _add_dags(installation: Installation, folder: Path) -> None:
    """Tell Airflow of a second folder, in the file that it would write by itself otherwise."""
    bundles = [
        {"name": "dags-folder", "classpath": _LOCAL_BUNDLE, "kwargs": {}},
        {"name": "other", "classpath": _LOCAL_BUNDLE, "kwargs": {"path": str(folder)}},
    ]
    home = installation.state_dir / "airflow"
    installation.state_dir.mkdir(mode=0o700)
    home.mkdir(mode=0o700)
    (home / "airflow.cfg").write_text(
        f"[dag_processor]\ndag_bundle_config_list = {json.dumps(bundles)}\n"
    )


def submit_trainings(installation: Installation, count: int, seconds: int) -> str:
    """Submit an example with many intervals, each of which trains so long; return its id."""
    intervals = ",".join(map(str, range(1, count + 1)))
    done = installation.run(
        *("submit", str(EXAMPLES / "momentum"), "--intervals", intervals, "--json"),
        *("--", f"seconds={seconds}"),
    )
    if done.returncode:
        raise RuntimeError(f"not submitted: {done.stdout}{done.stderr}")
    return str(json.loads(done.stdout)["submission_id"])


@contextmanager
def ignore_interrupts() -> Iterator[None]:
    """A second Ctrl-C would leave something running; ending in order is quick."""
    old = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def end_on_sigterm() -> None:
    """Let SIGTERM end a benchmark as Ctrl-C does: with everything cleaned up."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
