"""The command ``demo``: Touchstone at work, from nothing to judged models, and nothing left."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from touchstone.core.names import build_id
from touchstone.stack.commands import StateDir
from touchstone.stack.credentials import read_credentials
from touchstone.stack.layout import REPOSITORY, find_state_dir, get_record, tool

BASELINE = REPOSITORY / "include/examples/momentum"
CHALLENGER = REPOSITORY / "include/examples/mean_reversion"
EVENT = "default"
INTERVALS = "1,5,20"
_INTERRUPTED = 130


def demo(
    state_dir: StateDir = None,
    runtime: Annotated[
        str, typer.Option(help="What trainings run in: auto, docker or process.")
    ] = "auto",
    keep: Annotated[
        bool, typer.Option("--keep", envvar="KEEP", help="Leave the stack running.")
    ] = False,
) -> None:
    """Start a stack, train a baseline and a challenger, tell how they compare, stop."""
    # An environment and a directory of its own: whatever `touchstone up` has started goes on.
    chosen = state_dir or Path(
        os.environ.get("TOUCHSTONE_STATE_DIR") or REPOSITORY / ".touchstone/demo"
    )
    root = find_state_dir(chosen).root
    is_own = not root.exists()
    environment = {
        "TOUCHSTONE_ENV": "demo",
        **os.environ,
        "TOUCHSTONE_STATE_DIR": str(root),
    }

    def run(*arguments: str) -> int:
        command = [tool("touchstone"), *arguments]
        return subprocess.run(command, check=False, env=environment).returncode

    code = _INTERRUPTED
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = run("up", "--runtime", runtime)
        if code == 0:
            code = _judge(run)
            if keep:
                _print_addresses(root)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    finally:
        if not keep or code == _INTERRUPTED:
            # A second Ctrl-C would leave something running; `down` is quick.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            # What the demo made, it removes; a directory that was there before is somebody's.
            run("down", *(["--delete-data"] if is_own else []))
            with contextlib.suppress(OSError):
                (REPOSITORY / ".touchstone").rmdir()  # unless it holds something
    raise typer.Exit(code)


def _judge(run: Callable[..., int]) -> int:
    """Train a baseline and a challenger, show what is said of the second, return the exit code."""
    begun = datetime.now(UTC)
    baseline, challenger = (build_id(begun, name) for name in ("baseline", "challenger"))
    options = ("--intervals", INTERVALS, "--wait")
    steps = (
        ("submit", str(BASELINE), "--id", baseline, *options),
        ("event", "baseline", EVENT, baseline),
        ("submit", str(CHALLENGER), "--id", challenger, *options),
        ("leaderboard", EVENT),
        ("compare", challenger),
    )
    # One that fails leaves nothing to do for those behind it.
    return next((code for step in steps if (code := run(*step)) != 0), 0)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _print_addresses(root: Path) -> None:
    paths = find_state_dir(root)
    urls = get_record(paths).urls
    typer.echo(f"\nStill running: {urls.airflow} (Airflow and Touchstone), {urls.mlflow} (MLflow)")
    for user, password in read_credentials(paths).passwords.items():
        typer.echo(f"  log in as {user:<10} {password}")
    # As it was called: who has just cloned this has no `touchstone` on the path.
    command = shlex.join([sys.argv[0], "down", "--state-dir", str(root)])
    typer.echo(f"  stop it with: {command}")
