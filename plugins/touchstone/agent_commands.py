"""The commands ``agent``: servers join, are brought up to date, and leave."""

from __future__ import annotations

import getpass
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from touchstone.core.enrolment import ENGINE_SOCKET, STATE_DIR, EnrolmentRequest, check_request
from touchstone.terminal import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    AsJson,
    open_console,
    print_json,
    say,
)
from touchstone_agent.protocol.errors import ConfigurationError, TouchstoneError

if TYPE_CHECKING:
    from touchstone.enrolling.registering import Registrar
    from touchstone.enrolling.service import Enrolled, Enrolling, Step
    from touchstone.settings import Settings

# Airflow is imported by the commands themselves: it takes seconds.

WAIT_SECONDS = 3600.0
"""How long a command that was printed is waited for: as long as it may be run."""

agent_app = typer.Typer(
    no_args_is_help=True,
    help="Servers join, are brought up to date, and leave. For admins, on the control plane.",
)

Servers = Annotated[list[str], typer.Argument(metavar="SERVER...", show_default=False)]
Server = Annotated[str, typer.Argument(metavar="SERVER", show_default=False)]
Ssh = Annotated[
    str | None,
    typer.Option(
        "--ssh",
        metavar="CONNECTION",
        help="Airflow connection of type ssh by which the server is set up; {server} stands for "
        "its name. Without it a command is printed that its owner runs there.",
    ),
]


@agent_app.command("enroll")
def enroll(
    servers: Servers,
    ssh: Ssh = None,
    slots: Annotated[int, typer.Option(min=0, help="Trainings at a time.")] = 1,
    validation_slots: Annotated[int, typer.Option(min=0, help="Validations at a time.")] = 1,
    image: Annotated[
        list[str] | None,
        typer.Option(
            help="Image, or pattern of images, that may run there. [default: this "
            "installation's trainers]"
        ),
    ] = None,
    gpu: Annotated[str, typer.Option(help="auto for all GPUs, or none.")] = "auto",
    gpu_shares: Annotated[int, typer.Option(min=1, help="Trainings that share one GPU.")] = 1,
    state_dir: Annotated[
        str, typer.Option(help="Where its agent keeps journal and attempts.")
    ] = str(STATE_DIR),
    engine_socket: Annotated[str, typer.Option(help="The container engine's socket.")] = str(
        ENGINE_SOCKET
    ),
    python: Annotated[
        str, typer.Option(help="The server's command for Python 3.11 or 3.12.")
    ] = "python3",
    no_service: Annotated[
        bool,
        typer.Option(
            "--no-service", help="Start the agent in the background; for machines without systemd."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Print a new command for a server that has joined.")
    ] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Do not wait until a printed command was run.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Let servers join; a server that has joined stays unchanged."""
    settings = _get_settings()
    trainers = (settings.trainer_image, *filter(None, [settings.trainer_image_cuda]))
    requests = [
        EnrolmentRequest(
            server=server,
            ssh_conn_id=ssh.replace("{server}", server) if ssh is not None else None,
            slots=slots,
            validation_slots=validation_slots,
            images=tuple(image or trainers),
            gpu=gpu,
            gpu_shares=gpu_shares,
            state_dir=PurePosixPath(state_dir),
            engine_socket=PurePosixPath(engine_socket),
            has_service=not no_service,
            python=python,
        )
        for server in dict.fromkeys(servers)
    ]
    for requested in requests:
        check_request(requested)
    if ssh is not None and "{server}" not in ssh and len(requests) > 1:
        raise ConfigurationError(
            f"ssh: one connection leads to one server, and there are {len(requests)}: let its name "
            "say which, as in --ssh 'ssh_{server}'"
        )

    def work(enrolling: Enrolling, server: str) -> dict[str, object]:
        requested = next(requested for requested in requests if requested.server == server)
        done = enrolling.enroll(requested, is_dry=dry_run, is_again=again)
        if done.command is not None and not as_json:
            typer.echo(done.command, file=sys.__stdout__)
        if done.command is not None and not no_wait and not as_json:
            _wait_for(enrolling, done)
        return asdict(done)

    _run_each(
        [requested.server for requested in requests], work, as_json=as_json, settings=settings
    )


@agent_app.command("remove")
def remove(
    servers: Servers,
    ssh: Ssh = None,
    now: Annotated[
        bool,
        typer.Option("--now", help="Give up what runs there; it is tried again elsewhere."),
    ] = False,
    lost: Annotated[
        bool, typer.Option("--lost", help="The server is gone for good: leave its own side alone.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Let servers leave, once what runs there has ended; nothing of them is left."""

    def work(enrolling: Enrolling, server: str) -> dict[str, object]:
        conn_id = ssh.replace("{server}", server) if ssh is not None else None
        command = enrolling.remove(server, ssh_conn_id=conn_id, is_now=now, is_lost=lost)
        if command is not None and not as_json:
            typer.echo(command, file=sys.__stdout__)
        return {"server": server, "command": command}

    _run_each(list(dict.fromkeys(servers)), work, as_json=as_json, settings=_get_settings())


@agent_app.command("upgrade")
def upgrade(
    servers: Annotated[
        list[str] | None, typer.Argument(metavar="[SERVER...]", show_default=False)
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All servers that were enrolled by SSH.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring servers to this version, one after the other; attempts go on."""
    if bool(servers) == everything:
        raise ConfigurationError("server: name servers, or say --all")
    settings = _get_settings()
    names = list(dict.fromkeys(servers or ()))
    if everything:
        names = [
            str(row["server"])
            for row in _list(settings)
            if row["ssh_conn_id"] and row["env"] == settings.env
        ]

    def work(enrolling: Enrolling, server: str) -> dict[str, object]:
        return {"server": server, "is_changed": enrolling.upgrade(server)}

    _run_each(names, work, as_json=as_json, settings=settings, is_stopping=True)


@agent_app.command("list")
def list_agents(as_json: AsJson = False) -> None:
    """List servers with the version and commit that each runs."""
    rows = _list(_get_settings())
    if as_json:
        print_json({"servers": rows})
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("server", "env", "state", "version", "commit", "heard", "by"):
        table.add_column(title)
    for row in rows:
        cells = ("server", "env", "state", "version", "commit", "heard_at", "ssh_conn_id")
        table.add_row(*(str(row[cell] or "-")[:40] for cell in cells))
    open_console().print(table)


@agent_app.command("images")
def images(
    image: Annotated[
        list[str] | None, typer.Argument(metavar="[IMAGE...]", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """
    Ask the registries what images are now, as a submission would: a test of their connections.

    Without a name this installation's trainers are asked for.
    """
    settings = _get_settings()
    trainers = (settings.trainer_image, settings.trainer_image_cuda, settings.runpod.image)
    names = list(dict.fromkeys(image or filter(None, trainers)))
    with _aside():
        from touchstone.hooks.registry import pin_image

        rows = []
        for name in names:
            row: dict[str, object] = {"image": name, "pinned": None, "note": None, "problem": None}
            try:
                row |= pin_image(settings, name).dump()
            except TouchstoneError as error:
                row["problem"] = str(error)
            rows.append(row)
    if as_json:
        print_json({"images": rows})
    for row in rows:
        if row["problem"]:
            say(f"touchstone: {row['problem']}")
        elif not as_json:
            typer.echo(row["pinned"] or f"{row['image']}: {row['note']}")
    if any(row["problem"] for row in rows):
        raise typer.Exit(EXIT_FAILURE)


@agent_app.command("bundle")
def bundle(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Make what enrolment brings to servers, for installations that are no checkout."""
    from touchstone.enrolling.bundle import build_bundle, find_version

    if folder.exists() and any(folder.iterdir()):
        raise ConfigurationError(f"folder: {folder} is not empty; name a new one")
    if folder.exists():
        folder.rmdir()
    version = find_version()
    build_bundle(folder.absolute(), version)
    if as_json:
        print_json({"folder": str(folder.absolute()), "version": version})
    else:
        typer.echo(f"{folder}: {version}")


def _run_each(
    servers: list[str],
    work: Callable[[Enrolling, str], dict[str, object]],
    *,
    as_json: bool,
    settings: Settings,
    is_stopping: bool = False,
) -> None:
    """Do something for each server, and say how it went; one that fails stops no other."""
    from touchstone.enrolling.bundle import find_bundle
    from touchstone.enrolling.service import Enrolling

    rows: list[dict[str, object]] = []
    failed = False
    with _aside(), _connected(settings) as registrar:
        ready = find_bundle(settings)
        for server in servers:
            steps: list[dict[str, str]] = []

            def report(step: Step, steps: list[dict[str, str]] = steps) -> None:
                steps.append(asdict(step))
                if not as_json:
                    say(f"{step.server:<16} {step.name:<10} {step.state:<8} {step.text}")

            row: dict[str, object] = {"server": server, "steps": steps, "problem": None}
            rows.append(row)
            try:
                row |= work(Enrolling(registrar, ready, report=report), server)
            except TouchstoneError as error:
                failed = True
                row["problem"] = str(error)
                say(f"touchstone: {server}: {error}")
                if is_stopping:
                    break
            except KeyboardInterrupt:
                say(f"{server}: interrupted; run it again, it goes on from here")
                raise typer.Exit(EXIT_INTERRUPTED) from None
    left = servers[len(rows) :]
    if left:
        say(f"not touched: {', '.join(left)}")
    if as_json:
        print_json({"servers": rows, "not_touched": left})
    if failed:
        raise typer.Exit(EXIT_FAILURE)


def _wait_for(enrolling: Enrolling, done: Enrolled) -> None:
    """Wait until the printed command was run; Ctrl-C ends only the waiting."""
    say(f"waiting until {done.server} is heard; Ctrl-C leaves it to be done later")
    try:
        enrolling.wait_for_pools(done.server, seconds=WAIT_SECONDS)
    except KeyboardInterrupt:
        say(f"{done.server} may still join; `touchstone agent list` tells whether it has")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _list(settings: Settings) -> list[dict[str, object]]:
    from touchstone.core.enrolment import describe_server
    from touchstone.stores.records import RecordStore

    with _aside():
        entries = RecordStore.connect(settings).list_servers()
    return [describe_server(entry) for entry in entries]


@contextmanager
def _aside() -> Iterator[None]:
    """Let Airflow log to standard error: standard output is the command's own."""
    os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "ERROR"
    with redirect_stdout(sys.stderr):
        yield


@contextmanager
def _connected(settings: Settings) -> Iterator[Registrar]:
    from touchstone.enrolling.registering import Registrar

    yield Registrar.connect(settings, by=getpass.getuser())


def _get_settings() -> Settings:
    """Return the settings of the control plane: of the environment, or of this machine's stack."""
    _enter_stack()
    # Airflow then finds connections in its database as well, as its processes do.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    from touchstone.settings import get_settings

    get_settings.cache_clear()
    return get_settings()


def _enter_stack() -> None:
    """Take over the environment of a one-machine stack, unless there is one of Airflow's."""
    if os.environ.get("AIRFLOW_HOME") or os.environ.get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"):
        return
    from touchstone.client.access import find_state_dir

    file = find_state_dir(os.environ) / "env" / "dispatcher.json"
    try:
        known = json.loads(file.read_text())
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{file} cannot be read: {error}") from error
    os.environ.update({str(name): str(value) for name, value in known.items()})
