from __future__ import annotations

import json

from touchstone.settings import Settings
from touchstone.stack import environment
from touchstone.stack.layout import MARKER
from touchstone.stack.programs import build_parts


def part_named(name, paths, record, credentials, environ=None):
    parts = build_parts(paths, record, credentials, environ or {})
    return next(part for part in parts if part.name == name)


def test_only_the_control_plane_knows_its_secrets(paths, record, credentials) -> None:
    secrets = {
        credentials.fernet_key,
        credentials.jwt_secret,
        credentials.api_secret_key,
        credentials.control_private_key,
        *credentials.passwords.values(),
    }
    for name in ("ministack", "mlflow", "agent-local"):
        values = " ".join(part_named(name, paths, record, credentials).environment.values())
        assert not [secret for secret in secrets if secret in values], name


def test_nothing_listens_beyond_this_machine(paths, record, credentials) -> None:
    assert part_named("ministack", paths, record, credentials).environment["BIND_HOST"] == (
        "127.0.0.1"
    )
    airflow = part_named("airflow-api", paths, record, credentials).environment
    assert airflow["AIRFLOW__API__HOST"] == "127.0.0.1"
    for name in ("airflow-scheduler", "airflow-triggerer"):
        assert "--skip-serve-logs" in part_named(name, paths, record, credentials).command
    mlflow = part_named("mlflow", paths, record, credentials).command
    assert mlflow[mlflow.index("--host") + 1] == "127.0.0.1"


def test_ministack_sees_no_container_engine(paths, record, credentials) -> None:
    """It removes containers it takes for its own left-overs."""
    environ = {"DOCKER_HOST": "unix:///var/run/docker.sock"}
    ministack = part_named("ministack", paths, record, credentials, environ).environment
    assert ministack["DOCKER_HOST"].startswith(f"unix://{paths.root}")


def test_every_part_carries_the_marker(paths, record, credentials) -> None:
    parts = build_parts(paths, record, credentials, {})
    assert {part.environment[MARKER] for part in parts} == {"abc123"}


def test_settings_of_the_shell_reach_the_parts(paths, record, credentials, monkeypatch) -> None:
    environ = {"TOUCHSTONE_TRAINER_IMAGE": "mine:1", "TOUCHSTONE_ENV": "other"}
    dispatcher = part_named("dispatcher", paths, record, credentials, environ).environment
    for name, value in dispatcher.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.trainer_image == "mine:1"
    assert settings.env == "dev"
    assert settings.state_dir == paths.root
    assert settings.allow_local_sources


def test_what_speaks_to_commands_does_not_reach_the_parts(paths, record, credentials) -> None:
    environ = {"TOUCHSTONE_PASSWORD": "x", "TOUCHSTONE_SERVER": "else", "AWS_PROFILE": "prod"}
    for part in build_parts(paths, record, credentials, environ):
        assert not environ.keys() & part.environment.keys()


def test_connections_are_json_airflow_reads(record, credentials) -> None:
    connections = {
        name: json.loads(text)
        for name, text in environment.build_connections(record, credentials).items()
    }
    assert connections["AIRFLOW_CONN_TOUCHSTONE_AWS"]["extra"] == {
        "endpoint_url": "http://127.0.0.1:20003",
        "region_name": "us-west-2",
    }
    agent = connections["AIRFLOW_CONN_TOUCHSTONE_AGENT"]
    assert agent["password"] == credentials.control_private_key
    assert connections["AIRFLOW_CONN_TOUCHSTONE_MLFLOW"]["port"] == 20002


def test_proxies_are_not_used_on_loopback() -> None:
    host = environment.build_host_environment({"https_proxy": "http://p:1", "NO_PROXY": "intern"})
    assert host["NO_PROXY"] == host["no_proxy"] == "intern,127.0.0.1,localhost"


def test_other_variables_of_the_shell_are_not_taken_over() -> None:
    host = environment.build_host_environment(
        {"PATH": "/bin", "AIRFLOW__CORE__EXECUTOR": "X", "AWS_SECRET_ACCESS_KEY": "s"}
    )
    assert host == {"PATH": "/bin"}
