"""The command ``look``: what is known of a source before it is submitted."""

from __future__ import annotations

from typing import Annotated

import typer

from touchstone.event_commands import Login
from touchstone.terminal import AsJson, connect, print_json


def look(
    source: Annotated[
        str,
        typer.Argument(show_default=False, help="Git URL, or a folder or .tar.gz on this machine."),
    ],
    system: Annotated[str | None, typer.Option(help="feature_set or model_structure.")] = None,
    ref: Annotated[str | None, typer.Option(help="Branch, tag or commit of the source.")] = None,
    path: Annotated[str | None, typer.Option(help="Folder of the module in the source.")] = None,
    login: Login = None,
    as_json: AsJson = False,
) -> None:
    """Show what `submit` would send: commit or files, equal submissions, quotas."""
    from touchstone.client.requests import build_source, pack_if_here
    from touchstone.client.source_tables import list_report

    fields = build_source(source, system=system, ref=ref, path=path)
    archive = pack_if_here(fields)
    with connect(login) as client:
        if archive is not None:
            # Kept under its digest: to submit the same stores nothing more.
            fields["source"] = client.upload(archive)
        found = client.look(fields)
    if as_json:
        print_json(found.document)
        return
    for line in list_report(found.value):
        typer.echo(line)
