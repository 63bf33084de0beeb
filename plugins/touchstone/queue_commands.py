"""The commands ``queue`` and ``priority``: what waits, and in which order."""

from __future__ import annotations

from typing import Annotated

import typer

from touchstone.event_commands import Login
from touchstone.fleet_commands import connect_as_admin
from touchstone.terminal import AsJson, connect, open_console, print_json, say
from touchstone_agent.protocol.errors import ConfigurationError


def queue(login: Login = None, as_json: AsJson = False) -> None:
    """Show what waits for a slot, the next first, why, and about when it starts."""
    with connect(login) as client:
        found = client.get_queue()
    if as_json:
        print_json(found.document)
        return
    shown = found.value
    if shown.dispatcher and shown.dispatcher.warning:
        say(f"touchstone: {shown.dispatcher.warning}")
    if shown.waiting:
        from touchstone.client.queue_tables import build_queue

        open_console().print(build_queue(shown))
    hidden = shown.total - len(shown.waiting)
    if hidden:
        say(f"{hidden} of other users wait as well")
    elif not shown.waiting:
        say("nothing waits")


def priority(
    submission_id: Annotated[str, typer.Argument(metavar="ID", show_default=False)],
    task_id: Annotated[
        str | None,
        typer.Argument(
            metavar="[TASK]", show_default=False, help="One task, for example i5. [default: all]"
        ),
    ] = None,
    to: Annotated[
        int | None, typer.Option(help="The new priority, -100 to 100; higher goes first.")
    ] = None,
    first: Annotated[bool, typer.Option("--first", help="Before all that waits.")] = False,
    up: Annotated[
        bool, typer.Option("--up", help="Before the one that is next before it.")
    ] = False,
    down: Annotated[bool, typer.Option("--down", help="Behind the one that follows it.")] = False,
    last: Annotated[bool, typer.Option("--last", help="Behind all that waits.")] = False,
    reset: Annotated[bool, typer.Option("--reset", help="The schedule's own again.")] = False,
    login: Login = None,
    as_json: AsJson = False,
) -> None:
    """Change the place of what waits; what runs goes on. For admins."""
    from touchstone.client.requests import check_id

    moves = [
        name
        for name, is_wanted in (("first", first), ("up", up), ("down", down), ("last", last))
        if is_wanted
    ]
    changes: list[dict[str, object]] = [{"move": name} for name in moves]
    if to is not None:
        changes.append({"priority": to})
    if reset:
        changes.append({"priority": None})
    if len(changes) != 1:
        raise ConfigurationError(
            "priority: give one of --to, --first, --up, --down, --last and --reset"
        )
    with connect_as_admin(login) as client:
        done = client.change_order(check_id(submission_id), task_id, changes[0])
    if as_json:
        print_json(done.document)
        return
    name = submission_id if task_id is None else f"{submission_id} {task_id}"
    if not done.value.is_changed and done.value.priority is None:
        say(f"{name}: it has its schedule's own priority already")
    elif not done.value.is_changed:
        say(f"{name}: it is there already, with priority {done.value.priority}")
    elif done.value.priority is None:
        say(f"{name}: its schedule's own priority again")
    else:
        say(f"{name}: priority {done.value.priority}; `touchstone queue` shows its new place")
