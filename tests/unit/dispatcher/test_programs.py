"""Programs of other DAGs beside what the dispatcher places itself."""

from __future__ import annotations

import pytest

from fakes.placement_world import World
from fakes.servers import read_fields
from fakes.tasks import build_task, change_fields
from touchstone.core import attempts
from touchstone.core.durations import ErrorLog, History, describe_task
from touchstone.core.program_attempts import new_program
from touchstone.core.programs import Program
from touchstone.core.schedule import Training
from touchstone.core.tasks import build_program_spec
from touchstone.dispatcher.duration_recorder import DurationRecorder
from touchstone.dispatcher.events import EventHandler
from touchstone.dispatcher.programs import GRACE, ProgramReconciler
from touchstone.dispatcher.task_cache import TaskCache
from touchstone.services.troubles import Troubles
from touchstone_agent.protocol.messages import (
    AttemptPhase,
    AttemptRef,
    Cancel,
    Limits,
    PhaseChanged,
)

from .conftest import NOW

INSTANCE = ("nightly", "s-1", "train", 0)
SPEC = build_program_spec(
    # As like an instance of Touchstone's own DAG as may be.
    Program(dag_id="nightly", task_id="train", command=("x",)),
    run_id="s-1",
    map_index=0,
    image="ours:1",
    limits=Limits(),
    schedule=Training(),
)
KEY = (SPEC.submission_id, SPEC.task_id)


class FakeAirflow:
    """Says which task instances are gone."""

    def __init__(self):
        self.gone = set()
        self.asked = []

    def find_gone(self, instances):
        self.asked.append(set(instances))
        return set(instances) & self.gone


@pytest.fixture
def airflow():
    return FakeAirflow()


@pytest.fixture
def reconciler(records, agent, airflow, clock):
    return ProgramReconciler(
        records=records, agent=agent, airflow=airflow, clock=clock, troubles=Troubles(clock)
    )


@pytest.fixture
def program(records):
    task = new_program(SPEC, run_id="s-1", map_index=0, now=NOW)
    claimed = attempts.claim_attempt(
        task, attempt=1, server="local", container_of=lambda _: "c", now=NOW
    )
    records.create_task(claimed)
    return claimed


def test_a_program_that_nobody_waits_for_is_ended_once(
    reconciler, records, agent, airflow, clock, program
):
    airflow.gone = {INSTANCE}
    reconciler.end_orphans([program])
    assert agent.sent == [], "a try that has just begun may not be there yet"

    clock.advance(seconds=GRACE.total_seconds() + 1)
    reconciler.end_orphans([program])
    reconciler.end_orphans([records.get_task(*KEY)])

    assert airflow.asked == [{INSTANCE}, {INSTANCE}]
    assert records.get_task(*KEY).newest.cancel.reason == "its Airflow task has ended"
    assert len(agent.commands(Cancel)) == 1


def test_what_is_waited_for_goes_on(reconciler, agent, clock, program):
    clock.advance(hours=1)
    reconciler.end_orphans([program])

    assert agent.sent == []


def test_what_has_ended_well_is_closed_though_nobody_waits_any_more(
    reconciler, records, agent, airflow, clock, program
):
    airflow.gone = {INSTANCE}
    clock.advance(hours=1)
    task = change_fields(records, *KEY, status="uploading", outcome="succeeded", phase="exited")
    reconciler.end_orphans([task])
    assert records.get_task(*KEY).status == "uploading", "its files may still come"

    task = change_fields(records, *KEY, phase="uploaded", uploaded_at=NOW.isoformat())
    reconciler.end_orphans([task])

    assert records.get_task(*KEY).status == "success"
    assert agent.sent == []


def test_one_that_cannot_be_ended_keeps_no_other(reconciler, records, agent, airflow, clock):
    lost = build_task(SPEC, run_id="s-1", attempt=1, fence=1, intent_at=NOW.isoformat())
    other = new_program(
        SPEC.model_copy(update={"task_id": "t2", "program": SPEC.program.model_copy(
            update={"task_id": "other"})}), run_id="s-1", map_index=-1, now=NOW,
    )  # fmt: skip
    other = attempts.claim_attempt(
        other, attempt=1, server="local", container_of=lambda _: "c", now=NOW
    )
    records.create_task(other)
    airflow.gone = {("nightly", "s-1", "train", lost.map_index), ("nightly", "s-1", "other", -1)}
    clock.advance(hours=1)

    reconciler.end_orphans([lost, other])

    assert records.get_task(other.submission_id, "t2").newest.cancel is not None


def test_a_program_is_taken_for_no_task_of_touchstones_own_dag(records, program):
    """A run there may have its run's id, and name its record in a conf."""
    book = TaskCache(records, lambda _: {"s-1": KEY[0]})
    book.note(program)

    assert book._tasks == {}


def test_a_program_teaches_nothing_of_how_long_trainings_take(program):
    history, key = History(), describe_task(program.spec)
    before = history.expect(key)
    ended = program.advance(outcome="succeeded", running_at=NOW, exited_at=NOW)

    DurationRecorder(history=history, errors=ErrorLog()).learn(ended)

    assert history.expect(key) == before


def test_a_server_that_refuses_a_program_is_held_for_nobody_else(
    records, objects, agent, settings, clock, server_key, make_event, program
):
    handler = EventHandler(
        records=records, objects=objects, agent=agent, settings=settings, clock=clock
    )
    refused = PhaseChanged(
        ref=program.ref,
        phase=AttemptPhase.REJECTED,
        at=NOW,
        reason="no such GPU",
        details={"refusal": "gpu"},
    )

    handler.handle(make_event(refused))

    assert records.get_task(*KEY).newest.failure_class == "gpu"
    assert not read_fields(records, "local").get("holds")


# --- slots ---------------------------------------------------------------------------------------

SHOWN = (AttemptRef(submission_id=KEY[0], task_id=KEY[1], attempt=1, fence=1), "running")


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch.setattr)


def count_placed(world, keys):
    return sum(world.pool(key) == "rio" for key in keys)


def test_a_training_waits_while_a_program_holds_the_only_slot(world):
    world.add_server("rio", slots=1)
    world.airflow.foreign["rio"] = 1
    keys = world.submit("s-1", 5)
    world.settle()
    assert count_placed(world, keys) == 0

    world.airflow.foreign["rio"] = 0
    world.settle()

    assert count_placed(world, keys) == 1


@pytest.mark.parametrize("takes", [None, 2])
@pytest.mark.parametrize("shown", [(), (SHOWN,)], ids=["not-yet-shown", "shown"])
def test_a_program_takes_one_slot_of_its_server_and_not_two(world, takes, shown):
    """It is in the pool, and soon in the inventory: there is room for one training beside it."""
    world.add_server("rio", slots=2 if takes is None else 9, takes=takes)
    world.airflow.foreign["rio"] = 1
    world.show("rio", *shown)
    keys = world.submit("s-1", 5, 10)
    world.settle()

    assert count_placed(world, keys) == 1


def test_a_program_that_has_lost_its_slot_still_holds_its_server(world):
    world.add_server("rio", slots=1)
    world.show("rio", SHOWN)
    keys = world.submit("s-1", 5)
    world.settle()
    assert count_placed(world, keys) == 0

    world.show("rio")
    world.settle()

    assert count_placed(world, keys) == 1


def test_the_end_of_a_program_frees_no_slot_of_a_task_that_looks_like_it(world):
    world.add_server("rio", slots=1)
    first, second = world.submit("s-1", 5, 10)
    world.settle()
    assert world.pool(first) == "rio"
    task = new_program(SPEC, run_id="s-1", map_index=0, now=NOW)
    ended = attempts.claim_attempt(
        task, attempt=1, server="rio", container_of=lambda _: "c", now=NOW
    )

    world.dispatcher.note_exit(ended)
    world.settle()

    assert world.pool(second) != "rio"
