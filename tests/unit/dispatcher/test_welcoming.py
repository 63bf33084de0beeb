"""Servers that have joined get pools, and those that leave lose them, once nothing is there."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from fakes.pools import FakePools
from fakes.servers import store_server
from fakes.tasks import build_task
from touchstone.core.records.servers import EnrolmentState
from touchstone.dispatcher.welcoming import Welcomer
from touchstone.services.troubles import Troubles


@pytest.fixture
def pools() -> FakePools:
    return FakePools()


@pytest.fixture
def welcomer(records, pools, settings, clock) -> Welcomer:
    return Welcomer(
        records=records, pools=pools, settings=settings, clock=clock, troubles=Troubles(clock)
    )


@pytest.fixture
def enrol(records, settings, clock):
    """Return a function that puts a server on record, heard a second after it was enrolled."""

    def enrol(state: str = "begun", **changes: Any) -> None:
        heard = clock() + timedelta(seconds=1)
        store_server(
            records,
            {
                "server": "rio",
                "env": settings.env,
                "heartbeat_at": heard.isoformat(),
                "inventory": {"slots": 2, "validation_slots": 1, "gpus": []},
                "enrolment": {"state": state, "at": clock().isoformat()},
                **changes,
            },
        )

    return enrol


def find_state(records) -> EnrolmentState | None:
    return records.find_server("rio").state


def test_a_server_that_was_heard_gets_its_pools_once(welcomer, enrol, pools, records) -> None:
    enrol()
    welcomer.run()
    assert pools.slots() == {"rio": 2, "rio_validation": 1}
    assert find_state(records) is EnrolmentState.ENROLLED

    pools.edit("rio", slots=1)
    welcomer.run()
    assert pools.slots()["rio"] == 1, "slots are the admins'"


@pytest.mark.parametrize(
    "changes",
    [
        {"inventory": None},
        {"heartbeat_at": "2020-01-01T00:00:00+00:00"},
        {"env": "prod"},
        {"enrolment": {"state": "begun", "at": "nonsense"}},
        {"enrolment": None},
    ],
    ids=["silent", "heard-before", "of-others", "odd", "not-enrolled"],
)
def test_a_server_that_was_not_heard_gets_none(welcomer, enrol, pools, changes) -> None:
    enrol(**changes)
    welcomer.run()
    assert pools.slots() == {}


def test_one_that_makes_no_sense_keeps_none_of_the_others_away(
    welcomer, enrol, pools, records
) -> None:
    store_server(records, {"server": "odd", "env": "dev", "enrolment": {"state": "begun"}})
    store_server(records, {"server": "list", "env": "dev", "enrolment": []})
    enrol()
    welcomer.run()
    assert "rio" in pools.slots()


def test_a_server_that_leaves_keeps_its_pools_until_nothing_is_there(
    welcomer, enrol, pools, records
) -> None:
    enrol("removing")
    pools.edit("rio", slots=2, deferred=1)
    pools.edit("rio_validation", slots=1)

    welcomer.run()
    assert pools.slots() == {"rio": 0, "rio_validation": 0}
    assert records.find_server("rio").enrolment.left == 1
    assert find_state(records) is EnrolmentState.REMOVING

    pools.edit("rio", deferred=0)
    welcomer.run()
    assert pools.slots() == {}
    assert find_state(records) is EnrolmentState.REMOVED
    welcomer.run()
    assert pools.slots() == {}, "they do not come back"


def put_task(records, server: str = "rio") -> None:
    told = {"status": "running", "phase": "running", "attempt": 1, "fence": 1}
    records.create_task(build_task(server=server, **told))


@pytest.mark.parametrize("is_now", [False, True])
def test_what_is_at_work_there_is_waited_for_or_given_up(
    welcomer, enrol, pools, records, clock, is_now: bool
) -> None:
    enrol("removing", enrolment={"state": "removing", "at": clock().isoformat(), "is_now": is_now})
    put_task(records)

    welcomer.run()

    task = records.find_task("s-1", "i5")
    assert find_state(records) is EnrolmentState.REMOVING
    assert (task.newest.phase == "lost") is is_now
    if is_now:
        assert task.newest.reason == "server rio is being removed"
        welcomer.run()
        assert find_state(records) is EnrolmentState.REMOVED
