"""The commands ``up``, ``down``, ``status`` and ``init``."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from touchstone.stack import lifecycle
from touchstone.stack.configuring import UpOptions
from touchstone.stack.credentials import read_credentials
from touchstone.stack.health import PartStatus
from touchstone.stack.images import choose_runtime
from touchstone.stack.installation import InitPart, provision_installation, provision_roles
from touchstone.stack.layout import StatePaths, find_state_dir, get_record, parse_servers
from touchstone.stack.ports import PORT_NAMES, parse_ports
from touchstone_agent.protocol.errors import ConfigurationError, TouchstoneError

StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        help="Where the stack keeps everything. [default: TOUCHSTONE_STATE_DIR, or .touchstone]",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


def up(
    state_dir: StateDir = None,
    runtime: Annotated[
        str, typer.Option(help="What trainings run in: auto, docker or process.")
    ] = "auto",
    slots: Annotated[
        int | None,
        typer.Option(min=0, help="Trainings at a time, at the first start; 0 only validates here."),
    ] = None,
    validation_slots: Annotated[
        int | None, typer.Option(min=1, help="Validations at a time, at the first start.")
    ] = None,
    servers: Annotated[
        str | None,
        typer.Option(help="Several servers on this machine, each with its slots: a=1,b=2,c=3."),
    ] = None,
    ports: Annotated[
        str | None,
        typer.Option(
            envvar="TOUCHSTONE_PORTS",
            help=f"For example airflow=8080; of {', '.join(PORT_NAMES)}. Free ones otherwise.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start Touchstone on this machine; harmless when it runs."""
    paths = find_state_dir(state_dir)
    started = time.monotonic()
    try:
        options = UpOptions(
            runtime=choose_runtime(runtime, _report),
            slots=slots,
            validation_slots=validation_slots,
            servers=parse_servers(servers),
            ports=parse_ports(ports),
        )
        statuses = lifecycle.up(paths, options, _report)
    except TouchstoneError as error:
        _fail(error)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(130) from None
    seconds = time.monotonic() - started
    if as_json:
        typer.echo(
            json.dumps({**_describe(paths), "seconds": round(seconds, 1), "parts": _rows(statuses)})
        )
    else:
        _print_addresses(paths, seconds)


def down(
    state_dir: StateDir = None,
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="Remove the state directory as well.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """End Touchstone and all its trainings on this machine; the data stay."""
    try:
        ended = lifecycle.down(find_state_dir(state_dir), _report, delete_data=delete_data)
    except TouchstoneError as error:
        _fail(error)
    if as_json:
        typer.echo(json.dumps({"left_over_processes_ended": ended}))


def status(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Tell how each part is; exit code 0 only if all are healthy."""
    paths = find_state_dir(state_dir)
    try:
        statuses = lifecycle.get_status(paths)
        if as_json:
            typer.echo(json.dumps({**_describe(paths), "parts": _rows(statuses)}))
        else:
            _print_table(statuses)
    except TouchstoneError as error:
        _fail(error)
    if not all(part.is_healthy for part in statuses):
        raise typer.Exit(1)


def init(
    part: Annotated[
        InitPart | None,
        typer.Argument(help="Only this. [default: everything]", show_default=False),
    ] = None,
    server: Annotated[str | None, typer.Option(help="Also make this on-prem server known.")] = None,
    public_key: Annotated[
        str | None, typer.Option(help="That server's public key, as its enrolment printed it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """
    Create what is missing of this installation, and nothing twice.

    Tables, buckets and queues in AWS, the experiment in MLflow, and the roles touchstone_user and
    touchstone_admin where FAB is Airflow's auth manager.
    """
    try:
        if part is InitPart.ROLES:
            if server is not None or public_key is not None:
                raise ConfigurationError("server: roles belong to no server")
            made = provision_roles()
        else:
            made = list(provision_installation(server, public_key))
    except TouchstoneError as error:
        _fail(error)
    if as_json:
        typer.echo(json.dumps([asdict(thing) for thing in made]))
        return
    for thing in made:
        typer.echo(f"{thing.kind:<12}{thing.name:<40}{'created' if thing.created else 'exists'}")


def _report(part: str, line: str) -> None:
    typer.echo(f"{part:<22} {line}", err=True)


def _fail(error: TouchstoneError) -> None:
    typer.echo(f"touchstone: {error}", err=True)
    raise typer.Exit(1) from None


def _rows(statuses: Sequence[PartStatus]) -> list[dict[str, object]]:
    return [{**asdict(part), "healthy": part.is_healthy} for part in statuses]


def _describe(paths: StatePaths) -> dict[str, object]:
    record = get_record(paths)
    return {
        "state_dir": str(paths.root),
        "env": record.env,
        "servers": [server.model_dump() for server in record.servers],
        "runtime": record.runtime,
        "urls": record.urls.model_dump(),
        "ports": record.ports.model_dump(),
        "credentials_file": str(paths.credentials),
    }


def _print_addresses(paths: StatePaths, seconds: float) -> None:
    record, credentials = get_record(paths), read_credentials(paths)
    typer.echo(f"\nTouchstone is up after {seconds:.0f} s (trainings run in: {record.runtime}).")
    typer.echo(f"  Airflow and Touchstone pages  {record.urls.airflow}")
    typer.echo(f"  MLflow                        {record.urls.mlflow}")
    for user, password in credentials.passwords.items():
        typer.echo(f"  log in as {user:<19} {password}")


def _print_table(statuses: Sequence[PartStatus]) -> None:
    rows = [("part", "state", "pid", "uptime", "restarts", "address", "last crash")]
    rows += [
        (
            part.name,
            part.state,
            str(part.pid or "-"),
            f"{part.uptime_seconds} s" if part.pid else "-",
            str(part.restarts),
            part.url or "-",
            part.last_crash or "-",
        )
        for part in statuses
    ]
    # Not cut to the terminal's width: a cut address cannot be opened.
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())
    for part in statuses:
        if part.detail:
            typer.echo(f"{part.name}: {part.detail}", err=True)
