"""The command ``costs``: what pods have cost."""

from __future__ import annotations

from typing import Annotated

import typer

from touchstone.event_commands import Login
from touchstone.terminal import EXIT_FAILURE, AsJson, connect, open_console, print_json


def costs(
    month: Annotated[
        str | None,
        typer.Option(help="Month in which the pods were launched, UTC: 2026-11. [default: now]"),
    ] = None,
    by: Annotated[str, typer.Option(help="A row for each submission, submitter or gpu.")] = (
        "submission"
    ),
    user: Annotated[
        str | None, typer.Option("--of", help="Only this submitter's pods. [default: all]")
    ] = None,
    login: Login = None,
    as_json: AsJson = False,
) -> None:
    """Show what pods have cost: useful and wasted, against budgets and RunPod's bill."""
    with connect(login) as client:
        found = client.get_costs(month=month, by=by, user=user)
    if as_json:
        print_json(found.document)
    else:
        from touchstone.client.cost_tables import build_costs

        open_console().print(build_costs(found.value))
    if found.value.problem:
        raise typer.Exit(EXIT_FAILURE)
