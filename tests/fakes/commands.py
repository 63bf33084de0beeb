"""Who may use which command of the command line; a command without a rule fails a test."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import typer
from typer.testing import Result

from fakes.data_sets import write_folder
from fakes.rules import OWNED, Rule, find_expected
from touchstone import cli

GIT = "https://host.test/owner/module.git"

RULES = {
    "audit": (Rule.ADMINS, ()),
    "cancel": (Rule.OWNING_SUBMITTERS, ("s-1",)),
    "compare": (Rule.EVERYBODY, ("s-1",)),
    "costs": (Rule.EVERYBODY, ()),
    "data add": (Rule.ADMINS, ("{folder}/set",)),
    "data list": (Rule.EVERYBODY, ()),
    "data show": (Rule.EVERYBODY, ("sp500",)),
    "download": (Rule.OWNERS, ("s-1", "i5", "--to", "{folder}/files")),
    "enter": (Rule.OWNERS, ("s-1", "i5")),
    "event apply": (Rule.ADMINS, ("{folder}/b.toml",)),
    "event baseline": (Rule.ADMINS, ("default", "flat")),
    "event close": (Rule.ADMINS, ("default",)),
    "event list": (Rule.EVERYBODY, ()),
    "event show": (Rule.EVERYBODY, ("default",)),
    "fleet apply": (Rule.ADMINS, ("{folder}/fleet.toml",)),
    "fleet attach": (Rule.ADMINS, ("rio",)),
    "fleet check": (Rule.ADMINS, ("{folder}/fleet.toml",)),
    "fleet drain": (Rule.ADMINS, ("rio",)),
    "fleet reload": (Rule.ADMINS, ()),
    "fleet slots": (Rule.ADMINS, ("rio", "2")),
    "fleet status": (Rule.ADMINS, ()),
    "fleet work": (Rule.ADMINS, ("rio",)),
    "gpus": (Rule.EVERYBODY, ()),
    "leaderboard": (Rule.EVERYBODY, ("default",)),
    "list": (Rule.EVERYBODY, ()),
    "logs": (Rule.OWNERS, ("s-1", "i5")),
    "look": (Rule.SUBMITTERS, (GIT,)),
    "manifest apply": (Rule.SUBMITTERS, ("{folder}/jobs.toml",)),
    "open": (Rule.OWNERS, ("s-1",)),
    "pause": (Rule.ADMINS, ()),
    "plan": (Rule.OWNING_SUBMITTERS, ("s-1", "--intervals", "5")),
    "priority": (Rule.ADMINS, ("s-1", "--first")),
    "queue": (Rule.EVERYBODY, ()),
    "replay": (Rule.OWNING_SUBMITTERS, ("s-1", "i5")),
    "results": (Rule.OWNERS, ("s-1",)),
    "resume": (Rule.ADMINS, ()),
    "retract": (Rule.OWNING_SUBMITTERS, ("s-1",)),
    "schedule": (Rule.OWNING_SUBMITTERS, ("s-1", "--intervals", "5")),
    "show": (Rule.OWNERS, ("s-1",)),
    "submit": (Rule.SUBMITTERS, (GIT,)),
    "tasks": (Rule.EVERYBODY, ()),
}
"""By command: who it is for, and arguments of it; ``{folder}`` is :func:`write_files`'."""

REFUSED = re.compile(r"for admins only|may not submit|Forbidden")
MISSING = re.compile(r"there is no (submission|training)")


def list_commands() -> Iterator[str]:
    """Yield the commands that ask an installation, as somebody."""

    def walk(command: click.Command, path: tuple[str, ...]) -> Iterator[str]:
        if inner_commands := getattr(command, "commands", None):
            for name, inner in inner_commands.items():
                yield from walk(inner, (*path, name))
        elif any(each.name == "login" for each in command.params):
            yield " ".join(path)

    yield from walk(typer.main.get_command(cli.app), ())


def write_files(folder: Path) -> Path:
    """Write the files that commands are given; return their folder."""
    write_folder(folder / "set")
    (folder / "b.toml").write_text('schema_version = 1\ntitle = "Sharpe"\n')
    (folder / "fleet.toml").write_text("schema_version = 1\n")
    jobs = f'[defaults]\nintervals = [1]\n[[jobs]]\nname = "git"\nsource = "{GIT}"\n'
    (folder / "jobs.toml").write_text(f'schema_version = 1\nname = "tiers"\n{jobs}')
    return folder


def build_arguments(command: str, folder: Path) -> list[str]:
    """Return a command line."""
    arguments = RULES[command][1]
    return [*command.split(), *(each.format(folder=folder) for each in arguments)]


def check(command: str, done: Result, *, is_admin: bool, may_submit: bool, is_owner: bool) -> None:
    """Check what somebody was told."""
    rule, told = RULES[command][0], f"{command}: exit {done.exit_code}: {done.output}"
    expected = find_expected(rule, is_admin=is_admin, may_submit=may_submit, is_owner=is_owner)
    is_refused, is_missing = (bool(each.search(done.output)) for each in (REFUSED, MISSING))
    if expected == 403 and rule in OWNED and not is_owner:
        # A command that looks first is told first that there is nothing.
        assert is_refused or is_missing, told
    else:
        assert (is_refused, is_missing) == (expected == 403, expected == 404), told
    # Of a file of one's own everybody may know whether it makes sense.
    if expected is not None and command != "fleet check":
        assert done.exit_code != 0, told
    assert done.exception is None or isinstance(done.exception, SystemExit), told
