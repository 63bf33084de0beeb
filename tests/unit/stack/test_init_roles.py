"""What ``touchstone init roles`` says where Airflow keeps no roles in tables."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from touchstone.cli import app
from touchstone.stack.installation import provision_roles
from touchstone_agent.protocol.errors import ConfigurationError


@pytest.mark.parametrize(
    "manager",
    [
        "touchstone.ui.auth.TouchstoneAuthManager",
        "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
    ],
)
def test_without_fab_there_are_none_to_create(monkeypatch, manager):
    monkeypatch.setenv("AIRFLOW__CORE__AUTH_MANAGER", manager)

    with pytest.raises(ConfigurationError, match=r"not FAB's.*AIRFLOW__CORE__AUTH_MANAGER"):
        provision_roles()


def test_what_is_no_part_of_an_installation_is_refused():
    done = CliRunner().invoke(app, ["init", "users"])

    assert done.exit_code == 2
    assert "roles" in done.output


def test_roles_belong_to_no_server():
    done = CliRunner().invoke(app, ["init", "roles", "--server", "rio"])

    assert done.exit_code == 1
    assert "roles belong to no server" in done.output
