"""Accounts out of Airflow's connections, and what importing them costs."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal

import pytest
from airflow.sdk.definitions.connection import Connection

from touchstone.hooks.runpod.hook import RunPodHook, build_account, read_usd
from touchstone.hooks.runpod.provider import get_provider_info
from touchstone_agent.protocol.errors import ConfigurationError


def build_connection(**changes: object) -> Connection:
    return Connection(**{"conn_id": "c", "conn_type": "runpod", "password": "rpa_x"} | changes)


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({}, "https://api.runpod.io"),
        ({"host": "http://127.0.0.1:8090/"}, "http://127.0.0.1:8090"),
        ({"host": "127.0.0.1", "schema": "http", "port": 8090}, "http://127.0.0.1:8090"),
        ({"host": "api.example.org"}, "https://api.example.org"),
    ],
)
def test_the_address_of_an_account_may_be_written_in_many_ways(
    fields: dict[str, object], url: str
) -> None:
    assert build_account(build_connection(**fields)).url == url


def test_a_connection_without_a_key_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigurationError, match="'c' has no password"):
        build_account(build_connection(password=None))


def test_the_timeout_is_read_from_the_extra_fields() -> None:
    account = build_account(build_connection(extra='{"timeout_seconds": 5}'))
    assert account.timeout_seconds == 5
    assert build_account(build_connection()).timeout_seconds == 30


def test_a_key_is_in_no_message() -> None:
    assert "rpa_x" not in repr(build_account(build_connection()))


@pytest.mark.parametrize(("value", "usd"), [(None, 50), ("", 50), (12.5, "12.5"), ("7", 7)])
def test_the_warning_of_the_balance_has_a_default(value: object, usd: object) -> None:
    assert read_usd(value, Decimal(50)) == Decimal(str(usd))


def test_a_warning_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="balance_warning_usd"):
        read_usd("plenty", Decimal(50))


def test_the_connection_type_is_told_to_airflow() -> None:
    [kind] = get_provider_info()["connection-types"]
    assert kind["connection-type"] == RunPodHook.conn_type == "runpod"
    assert kind["hook-class-name"] == "touchstone.hooks.runpod.hook.RunPodHook"
    assert set(kind["conn-fields"]) == {"balance_warning_usd", "timeout_seconds"}


def test_the_sdk_is_imported_by_nothing_that_a_dag_imports() -> None:
    modules = ("hook", "rest", "lister", "sdk", "requests", "errors", "provider")
    code = "".join(f"import touchstone.hooks.runpod.{name}\n" for name in modules)
    code += "import sys\nprint(sorted({'runpod', 'boto3', 'paramiko'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
