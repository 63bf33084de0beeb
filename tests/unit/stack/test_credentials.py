from __future__ import annotations

import json
import stat

import pytest

from touchstone.stack.credentials import USERS, ensure_credentials
from touchstone.stack.layout import StatePaths
from touchstone_agent.protocol.envelope import load_private_key, load_public_key
from touchstone_agent.protocol.errors import ConfigurationError


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_readable_by_their_owner_only(paths: StatePaths) -> None:
    ensure_credentials(paths, ["local"])
    secret_files = (paths.credentials, paths.agent_key("local"), paths.airflow_passwords)
    assert [mode_of(path) for path in secret_files] == [0o600] * 3
    assert mode_of(paths.root) == 0o700


def test_secrets_are_made_once(paths: StatePaths) -> None:
    assert ensure_credentials(paths, ["local"]) == ensure_credentials(paths, ["local"])


def test_two_stacks_share_no_secret(tmp_path) -> None:
    one, two = StatePaths(root=tmp_path / "one"), StatePaths(root=tmp_path / "two")
    one.make()
    two.make()
    first = ensure_credentials(one, ["local"]).model_dump()
    second = ensure_credentials(two, ["local"]).model_dump()
    assert not [name for name in first if first[name] == second[name]]


def test_keys_are_pairs(paths: StatePaths) -> None:
    made = ensure_credentials(paths, ["local"])
    for private, public in (
        (made.control_private_key, made.control_public_key),
        made.agents["local"],
    ):
        derived = load_private_key(private).public_key().public_bytes_raw()
        assert derived == load_public_key(public).public_bytes_raw()


def test_each_server_has_a_key_of_its_own_and_keeps_it(paths: StatePaths) -> None:
    first = ensure_credentials(paths, ["a"])
    second = ensure_credentials(paths, ["a", "b"])

    assert second.agents["a"] == first.agents["a"]
    assert second.agents["b"] != second.agents["a"]
    assert second.passwords == first.passwords
    assert paths.agent_key("b").read_text().strip() == second.agents["b"][0]


def test_airflow_gets_a_password_for_every_user(paths: StatePaths) -> None:
    made = ensure_credentials(paths, ["local"])
    assert json.loads(paths.airflow_passwords.read_text()) == made.passwords
    assert set(made.passwords) == set(USERS)


def test_a_secret_file_that_became_readable_is_closed_again(paths: StatePaths) -> None:
    ensure_credentials(paths, ["local"])
    paths.agent_key("local").chmod(0o644)
    ensure_credentials(paths, ["local"])
    assert mode_of(paths.agent_key("local")) == 0o600


def test_damaged_secrets_are_not_replaced(paths: StatePaths) -> None:
    paths.credentials.write_text("{}")
    with pytest.raises(ConfigurationError, match=r"credentials\.json"):
        ensure_credentials(paths, ["local"])
    assert paths.credentials.read_text() == "{}"
