"""The keys of pods are derived from a secret that nobody can guess, or not at all."""

from __future__ import annotations

import base64
import types

import pytest

from touchstone.hooks import agent, mlflow
from touchstone.hooks.agent import AgentHook
from touchstone.hooks.runpod.api import Account
from touchstone.services.pods import context
from touchstone.services.pods.keys import derive_key
from touchstone.settings import Settings
from touchstone_agent.protocol.envelope import generate_key
from touchstone_agent.protocol.errors import ConfigurationError

WRONG = [
    None,
    "",
    "sesame",
    base64.b64encode(b"x" * 31).decode(),
    base64.b64encode(b"x" * 33).decode(),
    # Fixed, so that every process of the suite finds the same tests.
    base64.b64encode(bytes(range(32))).decode() + "\n#",
]
IDS = ["none", "empty", "no base64", "short", "long", "more"]


@pytest.fixture
def connection(monkeypatch):
    """The connection whose password is the control plane's key."""
    found = types.SimpleNamespace(conn_id="touchstone_agent", password=None)
    asked = []

    def get_connection(_, name):
        asked.append(name)
        return found

    monkeypatch.setattr(AgentHook, "get_connection", get_connection)
    found.asked = asked
    return found


@pytest.fixture(autouse=True)
def parts(monkeypatch):
    class Hook:
        account = Account(api_key="k")

        def __init__(self, *_):
            pass

    monkeypatch.setattr(context, "RunPodHook", Hook)
    monkeypatch.setattr(context, "AsyncRestPodApi", lambda _: None)
    monkeypatch.setattr(context, "get_async_lister", lambda _: None)
    for name in ("RecordStore", "ObjectStore", "Ledger"):
        monkeypatch.setattr(getattr(context, name), "connect", lambda _: None)


@pytest.mark.parametrize("password", WRONG, ids=IDS)
async def test_no_pod_is_rented_without_a_key_and_the_connection_is_named(connection, password):
    """Without a password every pod's key was derived from nothing: anybody could log in."""
    connection.password = password

    with pytest.raises(ConfigurationError, match="'touchstone_agent'") as caught:
        await context.connect_pods(Settings())

    assert not password or password not in str(caught.value)


@pytest.mark.parametrize("password", WRONG, ids=IDS)
def test_no_command_is_signed_without_a_key_and_the_connection_is_named(connection, password):
    connection.password = password

    with pytest.raises(ConfigurationError, match="'touchstone_agent'"):
        AgentHook(settings=Settings())._key  # noqa: B018 - it is read on first use


async def test_the_secret_is_the_control_planes_own_key(connection):
    private, _ = generate_key()
    connection.password = private

    desk = await context.connect_pods(Settings(agent_conn_id="other"))

    assert desk.secret == base64.b64decode(private)
    assert connection.asked == ["other"]
    assert base64.b64encode(desk.secret).decode() not in repr(desk)


@pytest.mark.parametrize("secret", [b"", b"x", b"x" * 31, b"x" * 33])
def test_no_key_is_derived_from_another_secret_than_32_bytes(secret):
    with pytest.raises(ConfigurationError, match=f"{len(secret)} bytes, not 32"):
        derive_key(secret, "touchstone-dev-s-1-i5-1-1")


def test_each_pod_has_a_key_of_its_own():
    first, again, second = (derive_key(b"0" * 32, name) for name in ("a", "a", "b"))

    assert first.public == again.public
    assert first.public != second.public
    assert derive_key(b"1" * 32, "a").public != first.public


@pytest.mark.parametrize(
    ("login", "password", "found"), [(None, None, None), ("ann", "x", ("ann", "x"))]
)
def test_an_mlflow_that_wants_a_login_gets_one(login, password, found):
    connection = types.SimpleNamespace(conn_id="m", login=login, password=password)

    assert mlflow.find_login(connection) == found


def test_an_mlflow_login_without_a_password_is_refused_and_the_connection_is_named():
    connection = types.SimpleNamespace(conn_id="touchstone_mlflow", login="ann", password="")

    with pytest.raises(ConfigurationError, match="'touchstone_mlflow' has a login and no password"):
        mlflow.find_login(connection)


def test_the_key_of_agents_is_the_one_of_pods(connection):
    connection.password, public = generate_key()

    key = AgentHook(settings=Settings())._key

    assert base64.b64encode(key.public_key().public_bytes_raw()).decode() == public
    assert agent.CONTROL_KEY_ID == "control"
