"""The commands ``dev ...``: for trying things on one machine."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from touchstone_agent.protocol.errors import ConfigurationError

dev_app = typer.Typer(no_args_is_help=True, help="For trying things on this machine.")

_REPOSITORY = Path(__file__).resolve().parents[2]
_TESTS = _REPOSITORY / "tests"
_EMULATOR = _TESTS / "fakes" / "runpod"
_TRAINER = _REPOSITORY / "include" / "elnigma" / ".venv" / "bin" / "elnigma-run"
_CONN_ID = "touchstone_runpod"


@dev_app.callback()
def dev() -> None:
    """For trying things on this machine."""


@dev_app.command("runpod")
def runpod(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port, on loopback only.")] = 8090,
    state_dir: Annotated[
        Path,
        typer.Option("--state-dir", help="Where it keeps its pods and its bill."),
    ] = Path(".touchstone/runpod"),
    pods: Annotated[
        str,
        typer.Option(help="What pods are: auto, docker, process, plain or none."),
    ] = "auto",
) -> None:
    """
    Be a RunPod on this machine until Ctrl-C: real pods with a bill, no account and no money.

    Any API key is good. What it prints first connects an installation to it.
    """
    if not _EMULATOR.is_dir():
        raise ConfigurationError(
            f"the emulator is part of the source checkout, and {_EMULATOR} is not there"
        )
    folder = state_dir.absolute()
    programs = _link_programs(folder / "programs")
    for line in _describe(f"http://127.0.0.1:{port}"):
        typer.echo(line)
    sys.stdout.flush()
    command = [
        *(sys.executable, "-m", "fakes.runpod"),
        *("--port", str(port), "--state-dir", str(folder / "state")),
        *("--pods", pods, "--programs", str(programs)),
    ]
    # In its place, so that Ctrl-C and SIGTERM reach what ends the pods.
    os.execve(  # noqa: S606 - no shell is what is wanted
        sys.executable, command, {**os.environ, "PYTHONPATH": str(_TESTS)}
    )


def _link_programs(folder: Path) -> Path:
    """Give pods that are processes what they would find in the trainer's image."""
    folder.mkdir(parents=True, exist_ok=True)
    for program in (Path(sys.executable).with_name("touchstone-pod"), _TRAINER):
        with suppress(FileExistsError):
            (folder / program.name).symlink_to(program)
    return folder


def _describe(url: str) -> list[str]:
    connection = json.dumps({"conn_type": "runpod", "host": url, "password": "any"})
    return [
        "To rent pods from it, start Touchstone in another terminal with",
        f"  export TOUCHSTONE_RUNPOD_CONN_ID={_CONN_ID}",
        f"  export AIRFLOW_CONN_{_CONN_ID.upper()}='{connection}'",
        "  touchstone up",
        "and give the pool runpod as many slots as there may be pods.",
        "",
    ]
