"""What make-secrets.sh makes, in a copy of the files it needs."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess

import pytest

from compose.deployment import REPOSITORY
from touchstone_agent.protocol.envelope import load_private_key


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "deploy").mkdir()
    for name in (".env.example", "deploy/make-secrets.sh"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    return tmp_path


def make_secrets(checkout):
    environment = {**os.environ, "DOCKER_HOST": "unix:///nowhere/docker.sock"}
    command = [str(checkout / "deploy/make-secrets.sh")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def read_all(checkout):
    return {file.name: file.read_bytes() for file in (checkout / "deploy/secrets").iterdir()}


def test_twice_changes_nothing(checkout):
    assert make_secrets(checkout).returncode == 0
    before = read_all(checkout), (checkout / ".env").read_text()
    assert make_secrets(checkout).returncode == 0
    assert (read_all(checkout), (checkout / ".env").read_text()) == before


def test_what_is_missing_is_made_from_what_is_there(checkout):
    make_secrets(checkout)
    before = read_all(checkout)
    for name in ("control_public_key", "airflow_database_url", "redis.conf"):
        (checkout / "deploy/secrets" / name).unlink()
    make_secrets(checkout)
    assert read_all(checkout) == before


def test_only_its_owner_can_enter_the_folder_and_nobody_else_read_a_file(checkout):
    make_secrets(checkout)
    folder = checkout / "deploy/secrets"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(file.stat().st_mode & 0o137 == 0 for file in folder.iterdir())


@pytest.mark.parametrize("name", ["control", "agent"])
def test_public_keys_belong_to_private_ones(checkout, name):
    make_secrets(checkout)
    files = read_all(checkout)
    private = load_private_key(files[f"{name}_private_key"].decode())
    public = base64.b64encode(private.public_key().public_bytes_raw())
    assert files[f"{name}_public_key"] == public


def test_without_an_endpoint_the_connection_is_that_of_the_machines_role(checkout):
    settings = (checkout / ".env.example").read_text()
    settings = settings.replace("=http://ministack:4566", "=")
    (checkout / ".env").write_text(settings)
    make_secrets(checkout)
    connections = json.loads(read_all(checkout)["airflow_connections.json"])
    assert connections["touchstone_aws"] == {
        "conn_type": "aws",
        "extra": {"region_name": "us-east-1"},
    }


def test_containers_are_not_to_be_root(checkout):
    settings = (checkout / ".env.example").read_text()
    (checkout / ".env").write_text(settings.replace("TOUCHSTONE_UID=50000", "TOUCHSTONE_UID=0"))
    done = make_secrets(checkout)
    assert done.returncode == 1
    assert "root" in done.stderr
    assert not (checkout / "deploy/secrets").exists()
