"""The commands ``fleet``, ``manifest``, ``pause`` and ``resume``."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from touchstone.terminal import EXIT_USAGE, AsJson, connect, open_console, print_json, say
from touchstone_agent.protocol.errors import ConfigurationError

if TYPE_CHECKING:
    from touchstone.client.answers import Answer
    from touchstone.client.api import Client
    from touchstone.client.fleet_tables import JobRow
    from touchstone.core.answers.fleet import FleetReport

Read = TypeVar("Read")

ADMIN = "admin"

_LOGIN_VARIABLES = ("TOUCHSTONE_USER", "TOUCHSTONE_PASSWORD", "TOUCHSTONE_TOKEN")
_MAX_FILE_BYTES = 4 * 1024**2

fleet_app = typer.Typer(no_args_is_help=True, help="Servers, their slots and the fleet file.")
control_app = typer.Typer()
manifest_app = typer.Typer(no_args_is_help=True, help="Many jobs in one file.")

Login = Annotated[
    str | None,
    typer.Option("--as", "--user", help="Log in as this user. [default: admin]"),
]
FleetFile = Annotated[
    Path | None,
    typer.Argument(
        metavar="[FILE]",
        show_default=False,
        help="The fleet file. [default: TOUCHSTONE_FLEET_FILE, or include/fleet.toml]",
    ),
]
Server = Annotated[str, typer.Argument(metavar="SERVER", show_default=False)]


@fleet_app.command("check")
def check(file: FleetFile = None, login: Login = None, as_json: AsJson = False) -> None:
    """Check the fleet file, and compare it with the installation if that is up."""
    from touchstone.client.errors import Forbidden, LoginRefused, NotInstalled, Unreachable
    from touchstone.client.fleet_tables import list_report
    from touchstone.core.fleet import parse_fleet

    path = _find_fleet_file(file)
    text = read_text(path, "fleet file")
    fleet = parse_fleet(text)
    report: Answer[FleetReport] | None = None
    try:
        with connect_as_admin(login) as client:
            report = client.check_fleet(text)
    except (Unreachable, NotInstalled, LoginRefused, Forbidden) as error:
        say(f"only the file itself was checked, not against the installation: {error}")
    if as_json:
        document = report.document if report else None
        print_json({"file": str(path), "servers": sorted(fleet.servers), "report": document})
    else:
        names = ", ".join(fleet.servers) or "no servers"
        typer.echo(f"{path}: {names}")
        for line in list_report(report.value) if report else ():
            typer.echo(f"  {line}")
    if report and report.value.refused:
        raise typer.Exit(EXIT_USAGE)


@fleet_app.command("apply")
def apply(file: FleetFile = None, login: Login = None, as_json: AsJson = False) -> None:
    """Create missing pools and tell servers' records what the file says; slots stay as they are."""
    from touchstone.client.fleet_tables import list_report
    from touchstone.core.fleet import parse_fleet

    text = read_text(_find_fleet_file(file), "fleet file")
    parse_fleet(text)
    with connect_as_admin(login) as client:
        report = client.apply_fleet(text)
    _print_lines(report, list_report(report.value), as_json)


@fleet_app.command("reload")
def reload(login: Login = None, as_json: AsJson = False) -> None:
    """Let the installation apply its own fleet file again."""
    from touchstone.client.fleet_tables import list_report

    with connect_as_admin(login) as client:
        report = client.reload_fleet()
    _print_lines(report, list_report(report.value), as_json)
    if report.value.refused:
        raise typer.Exit(EXIT_USAGE)


@fleet_app.command("status")
def status(login: Login = None, as_json: AsJson = False) -> None:
    """Show servers, slots, and what differs from the fleet file."""
    with connect_as_admin(login) as client:
        found = client.get_fleet()
    if as_json:
        print_json(found.document)
        return
    from touchstone.client.fleet_tables import build_fleet

    open_console().print(build_fleet(found.value))


@fleet_app.command("drain")
def drain(server: Server, login: Login = None, as_json: AsJson = False) -> None:
    """Let nothing new start on a server; running attempts go on to their end."""
    with connect_as_admin(login) as client:
        done = client.drain_server(server)
    had, left = done.value.drained, done.value.in_use + done.value.validation_in_use
    rest = f"{left} still running" if left else "nothing runs there"
    line = (
        f"{server} is drained, {rest}; it had {had.slots} and {had.validation_slots} slots, "
        f"which `touchstone fleet attach {server}` brings back"
    )
    _print_lines(done, [line], as_json)


@fleet_app.command("attach")
def attach(
    server: Server,
    slots: Annotated[
        int | None, typer.Option(help="Trainings at a time. [default: as before the drain]")
    ] = None,
    login: Login = None,
    as_json: AsJson = False,
) -> None:
    """Give a drained server its slots back."""
    with connect_as_admin(login) as client:
        done = client.attach_server(server, slots)
    now = done.value
    line = f"{server} has {now.slots} slots, and {now.validation_slots} for validations"
    _print_lines(done, [line], as_json)


@fleet_app.command("slots")
def slots(
    server: Server,
    number: Annotated[
        int, typer.Argument(metavar="SLOTS", show_default=False, help="Trainings at a time.")
    ],
    validations: Annotated[
        int | None, typer.Option(help="Validations at a time. [default: as many as now]")
    ] = None,
    login: Login = None,
    as_json: AsJson = False,
) -> None:
    """Give a server another number of slots; running attempts go on to their end."""
    with connect_as_admin(login) as client:
        done = client.set_slots(server, number, validations)
    now = done.value
    line = f"{server} has {now.slots} slots, and {now.validation_slots} for validations"
    _print_lines(done, [line], as_json)


@fleet_app.command("work")
def work(server: Server, login: Login = None, as_json: AsJson = False) -> None:
    """Show what runs on a server, until about when, and what a drain would do."""
    from touchstone.client.fleet_tables import list_work

    with connect_as_admin(login) as client:
        found = client.get_work(server)
    _print_lines(found, list_work(found.value), as_json)


@manifest_app.callback()
def manifest() -> None:
    """Many jobs in one file."""


@manifest_app.command("apply")
def apply_manifest(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be submitted.")
    ] = False,
    describe: Annotated[
        Path | None,
        typer.Option(
            help="What `elnigma describe` prints. [default: ask the trainer of this checkout]"
        ),
    ] = None,
    login: Annotated[
        str | None,
        typer.Option("--as", "--user", help="Log in as this user. [default: engineer]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Submit a manifest's jobs; those that were submitted before stay as they are."""
    from touchstone.client import manifests
    from touchstone.client.api import LIST_LIMIT
    from touchstone.client.fleet_tables import JobRow
    from touchstone.core.manifest import check_trainer, parse_manifest
    from touchstone.settings import get_settings

    parsed = parse_manifest(read_text(file, "manifest"))
    given = read_text(describe, "describe") if describe is not None else None
    description, origin = manifests.find_description(given, manifests.describe_checkout)
    unchecked = check_trainer(parsed, description) if description else None
    prepared = manifests.prepare(parsed, file.resolve().parent, get_settings().content_bytes)
    if description is None:
        say(f"WARNING: the trainer's keys (hyper.*) were NOT checked: {origin}")
    elif unchecked:
        say(
            f"WARNING: hyper.* was NOT checked for {', '.join(unchecked)}: another branch of the "
            "trainer runs them"
        )
    rows: list[JobRow] = []
    with connect(login) as client:
        for item in prepared:
            if dry_run:
                state = manifests.find_state(client, item.submission_id) or manifests.NEW
            else:
                state = manifests.submit(client, parsed, item)
            rows.append(JobRow(job=item.job.name, submission_id=item.submission_id, state=state))
        kept = {item.submission_id for item in prepared}
        removed, is_partial = manifests.list_removed(client, parsed, kept)
    if is_partial:
        say(f"only the newest {LIST_LIMIT} submissions were searched for removed jobs")
    if as_json:
        print_json(
            {
                "manifest": parsed.name,
                "dry_run": dry_run,
                "jobs": [asdict(row) for row in rows],
                "removed": [asdict(row) for row in removed],
                "checked_with": origin if description else None,
            }
        )
        return
    _print_jobs(rows, removed)


@control_app.command()
def pause(
    reason: Annotated[str | None, typer.Option(help="Why; others will read it.")] = None,
    login: Login = None,
    as_json: AsJson = False,
) -> None:
    """Let nothing new start anywhere; running attempts go on to their end."""
    with connect_as_admin(login) as client:
        done = client.pause_placements(reason)
    _print_lines(done, ["paused; `touchstone resume` lets tasks start again"], as_json)


@control_app.command()
def resume(login: Login = None, as_json: AsJson = False) -> None:
    """Let tasks start again."""
    with connect_as_admin(login) as client:
        done = client.resume_placements()
    _print_lines(done, ["resumed"], as_json)


def connect_as_admin(user: str | None) -> Client:
    """Return a client that logs in as the admin, unless told otherwise."""
    is_told = user or any(os.environ.get(name) for name in _LOGIN_VARIABLES)
    return connect(user if is_told else ADMIN)


def read_text(path: Path, what: str) -> str:
    """
    Read a file that a user has written by hand.

    :raises ConfigurationError: If there is none, or it is not a text of reasonable size.
    """
    try:
        if not path.is_file():
            raise ConfigurationError(f"{what}: there is no file {path}")
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ConfigurationError(f"{what}: {path} is larger than {_MAX_FILE_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{what}: {path} is not UTF-8 text") from error
    except OSError as error:
        raise ConfigurationError(f"{what}: {path} cannot be read: {error.strerror}") from error


def _find_fleet_file(given: Path | None) -> Path:
    if given is not None:
        return given
    from touchstone.client.access import REPOSITORY

    configured = os.environ.get("TOUCHSTONE_FLEET_FILE")
    return Path(configured).expanduser() if configured else REPOSITORY / "include" / "fleet.toml"


def _print_jobs(rows: list[JobRow], removed: list[JobRow]) -> None:
    from touchstone.client.fleet_tables import build_jobs

    console = open_console()
    console.print(build_jobs(rows))
    if removed:
        console.print("\nno longer in the manifest, and left as they are until cancelled:")
        console.print(build_jobs(removed))


def _print_lines(answer: Answer[Read], lines: list[str], as_json: bool) -> None:
    if as_json:
        print_json(answer.document)
        return
    for line in lines:
        typer.echo(line)
