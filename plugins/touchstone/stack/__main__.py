"""``python -m touchstone.stack``: the stack's commands without the rest of the command line."""

from __future__ import annotations

import typer

from touchstone.stack import commands


def main() -> None:
    """Run one of the stack's commands."""
    app = typer.Typer(no_args_is_help=True, add_completion=False)
    for command in (commands.up, commands.down, commands.status, commands.init):
        app.command()(command)
    app()


if __name__ == "__main__":
    main()
