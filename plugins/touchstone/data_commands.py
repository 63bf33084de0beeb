"""The commands ``data``: data sets that events choose."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from touchstone.event_commands import AdminLogin, Login
from touchstone.fleet_commands import connect_as_admin
from touchstone.terminal import AsJson, connect, open_console, print_json, say

data_app = typer.Typer(no_args_is_help=True, help="Data sets: what events are trained on.")


@data_app.command("add")
def add_data_set(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", show_default=False, help="Folder with data.toml and the data file."
        ),
    ],
    is_private: Annotated[
        bool,
        typer.Option(
            "--private",
            help="Send data.toml and a digest alone; the data file stays at the servers that hold "
            "it, and so does what is trained on it.",
        ),
    ] = False,
    login: AdminLogin = None,
    as_json: AsJson = False,
) -> None:
    """Check, pack and add a data set; the same content again changes nothing."""
    from touchstone.client.packing import describe_private_data_set, pack_data_set
    from touchstone.settings import get_settings

    if is_private:
        told = describe_private_data_set(folder)
        label = told.described.label
        with connect_as_admin(login) as client:
            added = client.add_private_data_set(told.text, told.digest, told.data_bytes)
    else:
        described, archive = pack_data_set(folder, get_settings().data_bytes)
        label = described.label
        with connect_as_admin(login) as client:
            added = client.add_data_set(archive)
    if as_json:
        print_json(added.document)
        return
    typer.echo(f"{label}: {'added' if added.value.is_changed else 'as it was'}")
    if is_private:
        typer.echo(f"digest: {added.value.digest}")


@data_app.command("list")
def list_data_sets(login: Login = None, as_json: AsJson = False) -> None:
    """List the data sets."""
    with connect(login) as client:
        found = client.list_data_sets()
    for name, problem in found.value.unreadable.items():
        say(f"touchstone: the data set {name} cannot be read: {problem}")
    if as_json:
        print_json(found.document)
        return
    from touchstone.client.data_tables import build_data_sets

    open_console().print(build_data_sets(found.value))


@data_app.command("show")
def show_data_set(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    login: Login = None,
    as_json: AsJson = False,
) -> None:
    """Show the newest version of a data set, and which others there are."""
    from touchstone.core.data_sets import check_data_name

    with connect(login) as client:
        found = client.get_data_set(check_data_name(name))
    if as_json:
        print_json(found.document)
        return
    from touchstone.client.data_tables import build_data_set

    open_console().print(build_data_set(found.value.versions))
