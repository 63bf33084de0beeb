"""A server works for one environment at a time, whatever the other one knows of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from tests.integration.enrolling.conftest import Plane

from touchstone.core.enrolment import EnrolmentRequest
from touchstone.core.records.servers import EnrolmentState
from touchstone.services.fleet import FleetKeeper
from touchstone_agent.protocol.errors import ConfigurationError, TouchstoneError
from waiting import wait_for

pytestmark = [
    pytest.mark.integration,
    pytest.mark.docker,
    pytest.mark.xdist_group("enrolment"),
    pytest.mark.campaign(sample=50),
]


@pytest.fixture(scope="module")
def sister(plane: Plane, new_plane: Callable[..., Plane]) -> Plane:
    """Another environment, which shares the servers' table."""
    return new_plane(servers_table=plane.settings.servers_table)


@pytest.fixture(scope="module")
def stranger(new_plane: Callable[..., Plane]) -> Plane:
    """Another environment, which shares nothing."""
    return new_plane()


def test_what_is_online_elsewhere_is_refused_and_what_is_drained_there_taken_over(
    plane: Plane, sister: Plane, make_server, requested
) -> None:
    server = make_server()
    name, env = server.name, plane.settings.env
    fleet = FleetKeeper(
        records=plane.records,
        pools=plane.pools,
        settings=plane.settings,
        clock=lambda: datetime.now(UTC),
    )
    plane.enrolling().enroll(requested(server))
    first = plane.records.find_server(name)

    with pytest.raises(ConfigurationError, match=f"{name} is online in environment {env}"):
        sister.enrolling().enroll(requested(server))
    assert plane.records.find_server(name).public_key == first.public_key

    fleet.drain_server(name, by="chief")
    wait_for("nothing runs there", lambda: not plane.records.find_server(name).running)
    taken = sister.enrolling().enroll(requested(server))

    assert taken.is_changed
    record = sister.records.find_server(name)
    assert (record.env, record.state) == (sister.settings.env, EnrolmentState.ENROLLED)
    assert record.public_key != first.public_key
    assert {name: 1, f"{name}_validation": 1}.items() <= sister.pools.slots().items()
    there = json.loads(server.run("cat", "/etc/touchstone-agent/enrolled.json"))
    assert (there["env"], there["server"]) == (sister.settings.env, name)
    config = server.run("cat", "/etc/touchstone-agent/agent.toml")
    assert f'env = "{sister.settings.env}"' in config
    agents = [p for p in server.list_processes() if "bin/touchstone-agent run" in p]
    assert len(agents) == 1
    # It gave up what it had, and what it gave up stays given up.
    with pytest.raises(TouchstoneError, match=sister.settings.env):
        fleet.attach_server(name, by="chief")
    with pytest.raises(ConfigurationError, match=f"is environment {sister.settings.env}'s"):
        plane.enrolling().remove(name)
    assert not sister.enrolling().enroll(requested(server)).is_changed

    sister.enrolling().remove(name)

    assert server.list_traces() == []
    assert sister.list_traces(name) == []


def test_one_that_knows_nothing_of_the_other_asks_the_server(
    plane: Plane, stranger: Plane, make_server, requested, monkeypatch
) -> None:
    server = make_server()
    plane.enrolling().enroll(requested(server))
    for name in (server.name, "other"):
        wanted = EnrolmentRequest(**{**vars(requested(server)), "server": name})
        words = f"that machine is {server.name} of environment {plane.settings.env}"
        with pytest.raises(ConfigurationError, match=words):
            stranger.enrolling().enroll(wanted)
        # Its queues and its identity have the name of the first, whose they are.
        assert stranger.records.find_server(name) is None
    assert not plane.enrolling().enroll(requested(server)).is_changed
    plane.enrolling().remove(server.name)
    assert server.list_traces() == []
    assert stranger.enrolling().enroll(requested(server)).is_changed
    stranger.enrolling().remove(server.name)
    assert server.list_traces() == []
    assert stranger.list_traces(server.name) == []
