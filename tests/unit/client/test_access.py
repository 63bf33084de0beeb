from __future__ import annotations

import json
from pathlib import Path

import pytest

from touchstone.client.access import get_access
from touchstone.client.errors import LoginRefused, NotInstalled
from touchstone_agent.protocol.errors import ConfigurationError

LOCAL = "http://127.0.0.1:20001"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "stack.json").write_text(json.dumps({"urls": {"airflow": LOCAL}}))
    passwords = {"admin": "pa", "engineer": "pe"}
    (tmp_path / "credentials.json").write_text(json.dumps({"passwords": passwords}))
    return {"TOUCHSTONE_STATE_DIR": str(tmp_path)}


def test_a_local_stack_is_found_with_the_engineers_password(environ: dict[str, str]) -> None:
    access = get_access(environ)
    assert (access.url, access.user, access.password) == (LOCAL, "engineer", "pe")


def test_another_user_may_be_asked_for(environ: dict[str, str]) -> None:
    assert get_access(environ, user="admin").password == "pa"
    assert get_access(environ | {"TOUCHSTONE_USER": "admin"}).password == "pa"


def test_the_environment_wins_over_the_files(environ: dict[str, str]) -> None:
    remote = {
        "TOUCHSTONE_URL": "https://prod.test/",
        "TOUCHSTONE_USER": "ada",
        "TOUCHSTONE_PASSWORD": "x",
    }
    access = get_access(environ | remote)
    assert (access.url, access.user, access.password) == ("https://prod.test", "ada", "x")


def test_a_token_is_enough(environ: dict[str, str]) -> None:
    access = get_access(environ | {"TOUCHSTONE_TOKEN": "t"})
    assert (access.token, access.password) == ("t", None)


def test_local_passwords_are_not_sent_elsewhere(environ: dict[str, str]) -> None:
    with pytest.raises(LoginRefused, match="TOUCHSTONE_PASSWORD"):
        get_access(environ | {"TOUCHSTONE_URL": "https://prod.test"})


def test_the_password_of_one_user_is_not_tried_for_another(environ: dict[str, str]) -> None:
    named = {"TOUCHSTONE_USER": "engineer", "TOUCHSTONE_PASSWORD": "x", "TOUCHSTONE_TOKEN": "t"}
    access = get_access(environ | named, user="admin")
    assert (access.user, access.password, access.token) == ("admin", "pa", None)


def test_without_a_stack_the_way_out_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotInstalled, match="touchstone up"):
        get_access({"TOUCHSTONE_STATE_DIR": str(tmp_path)})


def test_a_damaged_file_is_named(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"stack\.json"):
        get_access(environ)


def test_an_address_needs_its_scheme(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="TOUCHSTONE_URL"):
        get_access(environ | {"TOUCHSTONE_URL": "prod.test:8080", "TOUCHSTONE_TOKEN": "t"})
