"""What all commands share: how they connect, and how they print."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from touchstone.client.api import Client

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_INTERRUPTED = 130

_WIDTH_OF_A_FILE = 160


def connect(user: str | None) -> Client:
    """Return a client; ``None`` logs in as the environment says, or else as the engineer."""
    from touchstone.client.access import get_access
    from touchstone.client.api import Client
    from touchstone.core.records.audit import CLI_AGENT

    return Client(get_access(os.environ, user=user), agent=CLI_AGENT, sleep=time.sleep)


def open_console(*, stderr: bool = False) -> Console:
    """Return where tables are printed."""
    from rich.console import Console

    # What is printed was written by others: none of it is markup.
    console = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        # Columns cut off at 80 are of no use in a file or a pipe.
        console.width = _WIDTH_OF_A_FILE
    return console


def print_json(document: object) -> None:
    """Print one JSON document."""
    typer.echo(json.dumps(document, indent=2))


def say(line: str) -> None:
    """Say something beside what is printed; nothing if the line is empty."""
    if line:
        typer.echo(line, err=True)
