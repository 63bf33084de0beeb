"""The commands ``event``, ``leaderboard`` and ``compare``."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from touchstone.fleet_commands import connect_as_admin, read_text
from touchstone.terminal import (
    EXIT_FAILURE,
    EXIT_USAGE,
    AsJson,
    connect,
    open_console,
    print_json,
    say,
)
from touchstone_agent.protocol.errors import ConfigurationError, TouchstoneError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from touchstone.client.answers import Answer, Leaderboard, ShownEvent
    from touchstone.client.api import Client

_FOLDER = "TOUCHSTONE_EVENTS_DIR"
_MAX_FILES = 1000
_LOOK_SECONDS = 1.0
_CLOSING_SECONDS = 3600.0

event_app = typer.Typer(no_args_is_help=True, help="Events: what is judged together.")

Login = Annotated[
    str | None,
    typer.Option("--as", "--user", help="Log in as this user. [default: engineer]"),
]
AdminLogin = Annotated[
    str | None,
    typer.Option("--as", "--user", help="Log in as this user. [default: admin]"),
]
Name = Annotated[str, typer.Argument(metavar="EVENT", show_default=False)]


@event_app.command("list")
def list_events(login: Login = None, as_json: AsJson = False) -> None:
    """List the events."""
    with connect(login) as client:
        found = client.list_events()
    for name, problem in found.value.unreadable.items():
        say(f"touchstone: the event {name} cannot be read: {problem}")
    if as_json:
        print_json(found.document)
        return
    from touchstone.client.event_tables import build_events

    open_console().print(build_events(found.value.events))


@event_app.command("show")
def show_event(name: Name, login: Login = None, as_json: AsJson = False) -> None:
    """Show an event: rows, dates, baseline, quota."""
    with connect(login) as client:
        found = client.get_event(_check_name(name))
    if as_json:
        print_json(found.document)
        return
    from touchstone.client.event_tables import build_event

    open_console().print(build_event(found.value))


@event_app.command("apply")
def apply_events(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", show_default=False, help="An event's file, NAME.toml."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All files of TOUCHSTONE_EVENTS_DIR, or of events/.")
    ] = False,
    login: AdminLogin = None,
    as_json: AsJson = False,
) -> None:
    """Write down what events' files say; the same file again changes nothing."""
    from touchstone.client.errors import Forbidden, Refused
    from touchstone.core.events import parse_event

    files = _find_files(file, everything)
    applied: list[Answer[ShownEvent]] = []
    refused: dict[str, str] = {}
    with connect_as_admin(login) as client:
        for path in files:
            try:
                text = read_text(path, "event")
                # The message names the key; the other files go on.
                parse_event(text, name=path.stem)
                applied.append(client.apply_event(path.stem, text))
            except Forbidden:
                raise  # No other file would be taken either.
            except (ConfigurationError, Refused) as error:
                refused[str(path)] = str(error)
    if as_json:
        print_json({"applied": [each.document for each in applied], "refused": refused})
    for event in () if as_json else [each.value for each in applied]:
        typer.echo(f"{event.event}: {'applied' if event.is_changed else 'as it was'}")
    for path_name, problem in refused.items():
        say(f"touchstone: {path_name}: {problem}")
    if refused:
        raise typer.Exit(EXIT_USAGE)


@event_app.command("baseline")
def set_baseline(
    name: Name,
    baseline: Annotated[
        str,
        typer.Argument(metavar="ID", show_default=False, help="A successful submission, or flat."),
    ],
    login: AdminLogin = None,
    as_json: AsJson = False,
) -> None:
    """Set what an event's submissions are compared with from now on."""
    with connect_as_admin(login) as client:
        found = client.set_baseline(_check_name(name), baseline)
    if as_json:
        print_json(found.document)
        return
    typer.echo(f"{name}: submissions are compared with {found.value.baseline} from now on")


@event_app.command("close")
def close_event(name: Name, login: AdminLogin = None, as_json: AsJson = False) -> None:
    """Close an event: it takes nothing more, and all of it is judged by all that has come."""
    with connect_as_admin(login) as client:
        run_id = client.close_event(_check_name(name), secrets.token_hex(16)).value.run_id
        state = _await_closing(client, name, run_id)
        if state != "success":
            say(
                f"touchstone: {name} was not closed: see the log of run {run_id} of the DAG "
                "touchstone_close_event in Airflow"
            )
            raise typer.Exit(EXIT_FAILURE)
        board = client.get_leaderboard(name)
    _print_board(board, as_json)


def leaderboard(name: Name, login: Login = None, as_json: AsJson = False) -> None:
    """Show an event's leaderboard, best first."""
    with connect(login) as client:
        board = client.get_leaderboard(_check_name(name))
    _print_board(board, as_json)


def compare(
    submission_ids: Annotated[
        list[str], typer.Argument(metavar="ID...", show_default=False, help="Submissions.")
    ],
    by_interval: Annotated[
        bool,
        typer.Option("--by-interval", help="Figures of 2 to 5 submissions by interval instead."),
    ] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="The same as CSV, a row per submission and interval.")
    ] = False,
    login: Login = None,
    as_json: AsJson = False,
) -> None:
    """Show submissions beside each other, with all that was said of each."""
    from touchstone.client.requests import check_id

    wanted = [check_id(each) for each in submission_ids]
    if by_interval or as_csv:
        _compare_intervals(wanted, login, as_csv=as_csv, as_json=as_json)
        return
    with connect(login) as client:
        found = client.compare(wanted)
    if as_json:
        print_json(found.document)
        return
    from touchstone.client.event_tables import build_comparison

    open_console().print(build_comparison(found.value))


def _compare_intervals(
    wanted: Sequence[str], login: str | None, *, as_csv: bool, as_json: bool
) -> None:
    if as_csv and as_json:
        raise ConfigurationError("csv: choose either --csv or --json")
    with connect(login) as client:
        found = client.compare_intervals(wanted)
    if as_json:
        print_json(found.document)
        return
    if as_csv:
        from touchstone.core.comparing import write_csv

        typer.echo(write_csv(found.value), nl=False)
        return
    from touchstone.client.comparison_tables import build_intervals

    open_console().print(build_intervals(found.value))


def check_objection(client: Client, conf: Mapping[str, object]) -> None:
    """
    Refuse at once what an event would refuse, before anything is sent.

    :param conf: A run's, flat. Only an event that it names is asked.
    :raises ConfigurationError: With the time from which on the event takes it.
    """
    name = conf.get("event")
    if not name or "intervals" not in conf:
        return
    if objection := client.get_objection(_check_name(str(name))).value.objection:
        raise ConfigurationError(f"event: {objection}")


def _check_name(name: str) -> str:
    from touchstone.core.events import check_event_name

    return check_event_name(name)


def _find_files(file: Path | None, everything: bool) -> list[Path]:
    if (file is None) != everything:
        raise ConfigurationError("event: give either a file, or --all")
    if file is not None:
        return [file]
    from touchstone.client.access import REPOSITORY

    folder = Path(os.environ.get(_FOLDER) or REPOSITORY / "events").expanduser()
    found = sorted(folder.glob("*.toml"))[:_MAX_FILES]
    if not found:
        raise ConfigurationError(f"event: there is no *.toml in {folder} ({_FOLDER})")
    return found


def _await_closing(client: Client, name: str, run_id: str) -> str:
    deadline = time.monotonic() + _CLOSING_SECONDS
    while True:
        state = client.get_closing(name, run_id).value.state
        if state in {"success", "failed"}:
            return state
        if time.monotonic() > deadline:
            raise TouchstoneError(f"run {run_id} has not ended; it goes on without you")
        time.sleep(_LOOK_SECONDS)


def _print_board(board: Answer[Leaderboard], as_json: bool) -> None:
    if as_json:
        print_json(board.document)
        return
    from touchstone.client.event_tables import build_leaderboard

    open_console().print(build_leaderboard(board.value))
