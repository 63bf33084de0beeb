"""The command ``tasks``: validations and trainings of all submissions."""

from __future__ import annotations

from typing import Annotated

import typer

from touchstone.terminal import AsJson, connect, open_console, print_json, say


def tasks(
    status: Annotated[str | None, typer.Option(help="Only those in this status.")] = None,
    server: Annotated[
        str | None,
        typer.Option(
            help="Only those at work on this server; with --user or --submission, that ran there."
        ),
    ] = None,
    submission_id: Annotated[
        str | None, typer.Option("--submission", help="Only those of this submission.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Only those of this user.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 50,
    cursor: Annotated[
        str | None, typer.Option(help="Where to go on: `next` of an earlier page.")
    ] = None,
    login: Annotated[str | None, typer.Option("--as", help="Log in as this user.")] = None,
    as_json: AsJson = False,
) -> None:
    """List tasks of all submissions that you may see, the newest first."""
    from touchstone.client.requests import check_id

    chosen = None if submission_id is None else check_id(submission_id)
    with connect(login) as client:
        found = client.list_tasks(
            status=status,
            server=server,
            submission_id=chosen,
            user=user,
            limit=limit,
            cursor=cursor,
        )
    if as_json:
        print_json(found.document)
        return
    page = found.value
    if page.tasks:
        from touchstone.client.task_tables import build_tasks

        open_console().print(build_tasks(page.tasks))
    elif page.next is None:
        say("no tasks" if cursor is None else "nothing older")
    if page.next:
        say(f"older ones: --cursor {page.next}")
