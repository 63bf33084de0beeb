"""Each command is for whom its rule names, and no command is without a rule."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from typer.testing import Result

from fakes import api, commands
from fakes.api import FakeAirflow
from fakes.tasks import build_task

PEOPLE = {
    # name: their role, whether they are an admin, whether they may submit
    "engineer": ("user", False, True),
    "other": ("user", False, True),
    "reader": ("viewer", False, False),
    "admin": ("admin", True, True),
}


@pytest.fixture(autouse=True)
def people(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, (role, *_) in PEOPLE.items():
        monkeypatch.setitem(api.ROLES, name, role)
        monkeypatch.setitem(api.PASSWORDS, name, "secret")


def test_every_command_has_a_rule_and_every_rule_a_command() -> None:
    known = set(commands.list_commands())

    assert known - commands.RULES.keys() == set(), "say in tests/fakes/commands.py who it is for"
    assert commands.RULES.keys() - known == set()


@pytest.mark.parametrize("name", PEOPLE)
@pytest.mark.parametrize("command", commands.RULES)
def test_a_command_is_for_whom_its_rule_names(
    run: Callable[..., Result], airflow: FakeAirflow, tmp_path, command: str, name: str
) -> None:
    _, is_admin, may_submit = PEOPLE[name]
    airflow.add_submission("s-1")
    airflow.records.create_task(build_task(status="running", server="rio", attempt=1, fence=1))
    # What was started is not waited for.
    airflow.steps = [lambda: [each.update(state="success") for each in airflow.runs.values()]]
    folder = commands.write_files(tmp_path)

    done = run(*commands.build_arguments(command, folder), "--as", name)

    commands.check(
        command, done, is_admin=is_admin, may_submit=may_submit, is_owner=name == "engineer"
    )
