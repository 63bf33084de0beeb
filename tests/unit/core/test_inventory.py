"""What servers say that they run, beside what the records say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from fakes.tasks import build_task
from touchstone.core.inventory import (
    ReportedAttempt,
    Stray,
    count_lingering,
    find_stray,
    identify,
    is_missing,
    read_inventory,
)
from touchstone.core.records.servers import Server
from touchstone_agent.protocol.messages import AttemptPhase, AttemptRef, SlotClass

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def ref(task_id="i5", fence=2, submission_id="s-1"):
    return AttemptRef(submission_id=submission_id, task_id=task_id, attempt=1, fence=fence)


def held(phase="running", **of):
    return ReportedAttempt(ref=ref(**of), phase=AttemptPhase(phase))


def record(**changes):
    told = {
        "server": "rio",
        "attempt": 2,
        "fence": 2,
        "status": "running",
        "phase": "running",
        "last_event_at": NOW.isoformat(),
    }
    return build_task(**(told | changes))


@pytest.mark.parametrize(
    ("changes", "stray"),
    [
        ({}, None),
        ({"fence": 3}, Stray.OUTRANKED),
        ({"fence": 3, "server": "lima"}, Stray.OUTRANKED),
        ({"status": "lost", "phase": "lost"}, Stray.ENDED),
        ({"status": "cancelled"}, Stray.ENDED),
        ({"fence": 1}, Stray.UNKNOWN),
        ({"server": "lima"}, Stray.UNKNOWN),
        ({"attempt": 0}, Stray.UNKNOWN),
    ],
)
def test_what_runs_and_should_not_is_told_by_its_record(changes, stray):
    assert find_stray(held(), record(**changes), "rio") is stray


def test_what_no_record_knows_of_should_not_run():
    assert find_stray(held(), None, "rio") is Stray.UNKNOWN


def test_what_only_uploads_may_go_on_whatever_its_record_says():
    assert find_stray(held("exited"), record(fence=9), "rio") is None


@pytest.mark.parametrize(
    ("changes", "running", "missing"),
    [
        ({}, (), True),
        ({}, [ref()], False),
        ({}, [ref(fence=1)], True),
        ({"phase": None}, (), False),
        ({"status": "lost"}, (), False),
        ({"phase": "uploaded", "status": "uploading"}, (), False),
        ({"phase": "exited", "status": "uploading"}, (), True),
        ({"server": "lima"}, (), False),
        ({"platform": "runpod"}, (), False),
        ({"last_event_at": (NOW + timedelta(seconds=2)).isoformat()}, (), False),
        ({"last_event_at": "2026-11-22T11:00:00"}, (), True),
    ],
)
def test_what_should_run_and_does_not_is_told_by_the_inventory(changes, running, missing):
    known = {identify(item) for item in running}

    assert is_missing(record(**changes), "rio", known, NOW + timedelta(seconds=1)) is missing


def test_only_what_nobody_waits_for_holds_a_slot_beside_those_that_are_counted():
    running = [
        held(fence=2),
        held(task_id="i20", fence=1),
        held(task_id="i1", phase="exited"),
        held(task_id="validation", phase="accepted"),
        held(task_id="i7", phase="preparing"),
    ]

    lingering = count_lingering(
        running,
        waited_for={("s-1", "i5"): 2, ("s-1", "i20"): 2},
        ended={("s-1", "i7", 2)},
    )

    assert lingering == {SlotClass.TRAINING: 1, SlotClass.VALIDATION: 1}


@pytest.mark.parametrize(
    "odd", [None, [], [{}], ["x", "running"], [{"submission_id": "s"}, "running"], 7]
)
def test_an_entry_that_makes_no_sense_hides_no_other(odd):
    good = [ref().model_dump(mode="json"), "running"]

    running = [odd, good, [good[0], "dancing"]]
    server = Server.load({"server": "rio", "running": running})

    assert list(read_inventory(server)) == [held()]
    assert server.dump()["running"] == running, "what another version wrote stays"


def test_programs_of_other_dags_are_counted_once_with_the_slots_that_those_hold():
    running = [
        held(submission_id="dag--nightly-1", fence=1),
        held(submission_id="dag--nightly-2", fence=1),
        held(task_id="i9", fence=1),
    ]

    def count(others):
        return count_lingering(running, waited_for={}, ended=(), others=others)[SlotClass.TRAINING]

    # A program that lost its slot still holds the server; a task of another DAG may be no program.
    assert [count(others) for others in (0, 1, 2, 3)] == [3, 2, 1, 1]
