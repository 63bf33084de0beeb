"""The command ``audit``: who did what when, and from which door."""

from __future__ import annotations

from typing import Annotated

import typer

from touchstone.event_commands import Login
from touchstone.fleet_commands import connect_as_admin
from touchstone.terminal import AsJson, connect, open_console, print_json, say


def audit(
    submission_id: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID]", show_default=False, help="A submission. [default: all, for admins]"
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    cursor: Annotated[
        str | None, typer.Option(help="Where to go on: `next` of an earlier page.")
    ] = None,
    login: Login = None,
    as_json: AsJson = False,
) -> None:
    """Show who did what, when, and from which door; the newest first."""
    from touchstone.client.requests import check_id

    chosen = None if submission_id is None else check_id(submission_id)
    with connect(login) if chosen else connect_as_admin(login) as client:
        found = client.list_acts(chosen, limit=limit, cursor=cursor)
    if as_json:
        print_json(found.document)
        return
    log = found.value
    if log.acts:
        from touchstone.client.audit_tables import build_audit

        open_console().print(build_audit(log))
    else:
        say("no acts yet" if cursor is None else "nothing older")
    if log.unreadable:
        say(f"touchstone: {log.unreadable} acts are left out: their records make no sense")
    if log.next:
        say(f"older ones: --cursor {log.next}")
