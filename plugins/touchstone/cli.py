"""The command ``touchstone``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

import typer
from typer.core import TyperCommand, TyperGroup

from touchstone import (
    agent_commands,
    audit_commands,
    cost_commands,
    data_commands,
    dev_commands,
    event_commands,
    fleet_commands,
    queue_commands,
    source_commands,
    submission_commands,
    task_commands,
)
from touchstone.memory import collect_seldom
from touchstone.terminal import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_UNREACHABLE, EXIT_USAGE
from touchstone_agent.protocol.errors import ConfigurationError, TouchstoneError

if TYPE_CHECKING:
    from typer._click.core import Command

ELSEWHERE = {
    "check": (
        "touchstone.stack.checking:check",
        "Validate a module on this machine; nothing is sent.",
    ),
    "init": (
        "touchstone.stack.commands:init",
        "Create tables, buckets, queues, the experiment and roles.",
    ),
    "up": ("touchstone.stack.commands:up", "Start Touchstone on this machine."),
    "down": ("touchstone.stack.commands:down", "End Touchstone on this machine; the data stay."),
    "status": ("touchstone.stack.commands:status", "Tell how each part of the stack is."),
    "demo": (
        "touchstone.stack.demo:demo",
        "Start a stack, train a baseline and a challenger, tell how they compare, stop.",
    ),
    "dispatcher": (
        "touchstone.dispatcher.main:run",
        "Turn agents' events into records and mend what died.",
    ),
}
"""Commands that other modules define: where, and what ``--help`` says of them here."""


class Group(TyperGroup):
    """Finds commands in other modules when they are called, and turns errors into exit codes."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return the names of all commands."""
        return [*super().list_commands(ctx), *ELSEWHERE]

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Command | None:  # type: ignore[override]
        """Return a command; for one of another module, what ``--help`` lists."""
        if cmd_name in ELSEWHERE:
            return TyperCommand(name=cmd_name, help=ELSEWHERE[cmd_name][1])
        return super().get_command(ctx, cmd_name)

    def resolve_command(  # type: ignore[override]
        self, ctx: typer.Context, args: list[str]
    ) -> tuple[str | None, Command | None, list[str]]:
        """Return the command that is called, importing it if it is another module's."""
        if args and args[0] in ELSEWHERE:
            return args[0], _load(args[0]), args[1:]
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        """Run the command; say on standard error what went wrong."""
        try:
            return super().invoke(ctx)
        except TouchstoneError as error:
            typer.echo(f"touchstone: {error}", err=True)
            raise typer.Exit(_find_exit_code(error)) from None
        except KeyboardInterrupt:
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            # `touchstone logs ID | head`: the reader is gone. Python would complain at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(EXIT_FAILURE) from None


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Submit prediction models, train them on whatever GPU is free, and see what they are "
    "worth.",
)


# Without a name: their commands are the command line's own.
app.add_typer(submission_commands.submission_app)
app.add_typer(fleet_commands.control_app)
app.add_typer(agent_commands.agent_app, name="agent")
app.add_typer(fleet_commands.fleet_app, name="fleet")
app.add_typer(fleet_commands.manifest_app, name="manifest")
app.add_typer(event_commands.event_app, name="event")
app.add_typer(data_commands.data_app, name="data")
app.command()(event_commands.leaderboard)
app.command()(event_commands.compare)
app.command()(cost_commands.costs)
app.command()(audit_commands.audit)
app.command()(queue_commands.queue)
app.command()(queue_commands.priority)
app.command()(task_commands.tasks)
app.command()(source_commands.look)
app.add_typer(dev_commands.dev_app, name="dev")


def main() -> None:
    """Run the command line."""
    app()


def _find_exit_code(error: TouchstoneError) -> int:
    from touchstone.client.errors import LoginRefused, NotInstalled, Refused, Unreachable

    if isinstance(error, (Unreachable, LoginRefused, NotInstalled)):
        return EXIT_UNREACHABLE
    if isinstance(error, ConfigurationError) or (isinstance(error, Refused) and error.field):
        return EXIT_USAGE
    return EXIT_FAILURE


def _load(name: str) -> Command:
    collect_seldom()
    module, _, function = ELSEWHERE[name][0].partition(":")
    command: Callable[..., None] = getattr(import_module(module), function)
    own = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    own.command(name)(command)
    return typer.main.get_command(own)
