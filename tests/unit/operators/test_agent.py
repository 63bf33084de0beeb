"""What the operator does with its placement, or without one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSkipException,
    TaskDeferred,
)

from fakes.agents import FakeAgentHook
from fakes.stores import FakeObjectStore, FakeRecordStore
from touchstone.core import attempts
from touchstone.core.attempts import WaitEnd, find_end
from touchstone.core.tasks import TaskSpec
from touchstone.hooks.starts import Starter, StartOrder
from touchstone.operators.agent import RESCHEDULE_SECONDS, AgentOperator, PlacedOperator
from touchstone.settings import Settings
from touchstone_agent.protocol.errors import TransientError
from touchstone_agent.protocol.messages import AttemptPhase, Cancel, Limits, PhaseChanged, Start

SPEC = TaskSpec(
    submission_id="s-1",
    task_id="i5",
    kind="training",
    system="feature_set",
    image="trainer:1",
    content_sha256="a" * 64,
    content_size=10,
    interval=5,
    limits=Limits(),
).model_dump(mode="json")
ON_RIO = {
    "server": "rio",
    "gpus": 1,
    "is_on_deck": False,
    "was_on_deck": False,
    "reason": "a slot of rio is free",
    "try": 1,
    "max_tries": 20,
}
ON_DECK = {"is_on_deck": True, "at": "2026-11-22T12:00:00+00:00", "try": 1}


@pytest.fixture
def records():
    return FakeRecordStore()


@pytest.fixture
def agent():
    return FakeAgentHook()


@pytest.fixture(autouse=True)
def parts(records, agent, monkeypatch):
    """The operator finds its stores by itself: here they are in memory."""
    settings = Settings(env="dev")
    starter = Starter(records=records, objects=FakeObjectStore(), agent=agent, settings=settings)
    monkeypatch.setattr("touchstone.operators.agent.get_settings", lambda: settings)
    monkeypatch.setattr("touchstone.hooks.records.RecordStore.connect", lambda _: records)
    monkeypatch.setattr("touchstone.hooks.starts.Starter.connect", lambda _: starter)
    monkeypatch.setattr("touchstone.hooks.agent.AgentHook", lambda settings: agent)
    return starter


@pytest.fixture
def operator():
    return AgentOperator(task_id="train", spec=SPEC)


def build_context(placement, *, try_number=1, run_id="s-1", map_index=0, max_tries=20):
    ti = SimpleNamespace(
        run_id=run_id, try_number=try_number, map_index=map_index, max_tries=max_tries
    )
    return {"ti": ti, "task_state_store": {"placement": placement}}


def execute(operator, placement, **instance):
    """Run it as a worker does, up to where it defers; return its trigger."""
    context = build_context(placement, **instance)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    assert deferred.value.method_name == "raise_failure"
    assert deferred.value.timeout is None  # it would resume on a worker, which needs a slot
    return deferred.value.trigger


def tell(records, phase, **details):
    def decide(record):
        now = datetime.now(UTC)
        event = PhaseChanged(
            ref=attempts.get_ref(record), phase=AttemptPhase(phase), at=now, details=details
        )
        return attempts.apply_phase(record, event, now=now)

    return records.change_task("s-1", "i5", decide)


def test_a_placed_try_is_claimed_and_sent_to_its_server(operator, records, agent):
    trigger = execute(operator, ON_RIO)

    record = records.get_task("s-1", "i5")
    assert (record["server"], record["attempt"], record["fence"]) == ("rio", 1, 1)
    assert record["placement"] == ON_RIO
    assert [(server, command.gpus) for server, command, _ in agent.sent] == [("rio", 1)]
    assert (trigger.submission_id, trigger.touchstone_task_id) == ("s-1", "i5")
    assert (trigger.fence, trigger.run_id) == (1, "s-1")


def test_a_task_without_a_specification_is_skipped(records, agent):
    operator = AgentOperator(task_id="train", spec=None)

    with pytest.raises(AirflowSkipException):
        operator.execute({})

    assert agent.sent == []


@pytest.mark.parametrize(
    "placement", [None, {}, ON_RIO, ON_DECK], ids=["none", "empty", "server", "deck"]
)
def test_a_try_that_was_placed_nowhere_goes_back_to_wait(operator, records, agent, placement):
    """What is stored is of the try before: its server is another one's by now."""
    context = build_context(placement, try_number=2)
    before = datetime.now(UTC)

    with pytest.raises(AirflowRescheduleException) as again:
        operator.execute(context)

    wait = again.value.reschedule_date - before
    assert abs(wait - timedelta(seconds=RESCHEDULE_SECONDS)) < timedelta(seconds=5)
    assert agent.sent == []
    assert records.find_task("s-1", "i5") is None


def test_a_try_on_deck_starts_nothing_and_waits_for_the_fence_to_come(operator, records, agent):
    trigger = execute(operator, ON_DECK)

    assert trigger.fence == 1
    assert agent.sent == []
    assert records.get_task("s-1", "i5")["attempt"] == 0


def test_a_retry_on_deck_is_not_ended_by_the_end_of_the_attempt_before(operator, records):
    execute(operator, ON_RIO)
    tell(records, "lost")

    trigger = execute(operator, {**ON_DECK, "try": 2}, try_number=2)

    record = records.get_task("s-1", "i5")
    assert trigger.fence == 2
    assert find_end(record, fence=1, run_id="s-1") is WaitEnd.RETRY
    assert find_end(record, fence=trigger.fence, run_id="s-1") is None


def test_the_fence_that_a_try_on_deck_waits_for_is_the_one_that_is_claimed(
    operator, records, parts
):
    execute(operator, ON_RIO)
    tell(records, "lost")
    trigger = execute(operator, {**ON_DECK, "try": 2}, try_number=2)

    record = parts.start(
        StartOrder(submission_id="s-1", task_id="i5", run_id="s-1", attempt=2, server="lima")
    )

    assert record["fence"] == trigger.fence


def test_a_try_that_runs_again_claims_nothing_again(operator, records, agent):
    """Its worker died after it had sent START; Airflow gives the same try to another one."""
    first = execute(operator, ON_RIO)
    second = execute(operator, ON_RIO)

    assert (first.fence, second.fence) == (1, 1)
    assert {command.ref.fence for command in agent.commands(Start)} == {1}


def test_a_store_that_is_away_fails_the_try_so_that_airflow_retries(
    operator, records, agent, monkeypatch
):
    def send(*_, **__):
        raise TransientError("the queue is away")

    monkeypatch.setattr(agent, "send", send)

    with pytest.raises(TransientError):
        operator.execute(build_context(ON_RIO))


@pytest.mark.parametrize(("map_index", "stored"), [(3, 3), (-1, -1), (None, -1)])
def test_the_record_says_which_instance_waits_for_it(operator, records, map_index, stored):
    execute(operator, ON_RIO, map_index=map_index)

    assert records.get_task("s-1", "i5")["map_index"] == stored


def exit_with(records, code, outcome, reason=None):
    verdict = {"outcome": outcome, "class": "config", "reason": reason}
    tell(records, "exited", exit_code=code, verdict=verdict, files=[])


def test_a_try_after_the_last_attempt_starts_nothing_and_fails_with_its_reason(
    operator, records, agent
):
    """
    A deterministic failure was trained a second time.

    Airflow's scheduler heard that the process which had deferred was over only after the one that
    resumed had begun, took that for a mismatch, and gave the task its next try.
    """
    execute(operator, ON_RIO)
    exit_with(records, 2, "failed", "config: no such key")

    with pytest.raises(AirflowFailException, match="config: no such key"):
        operator.execute(build_context({**ON_RIO, "try": 2}, try_number=2))

    assert [command.ref.fence for command in agent.commands(Start)] == [1]


def test_a_try_after_an_attempt_that_ended_well_starts_nothing_and_succeeds(
    operator, records, agent
):
    execute(operator, ON_RIO)
    exit_with(records, 0, "succeeded")

    operator.execute(build_context(None, try_number=2))

    assert [command.ref.fence for command in agent.commands(Start)] == [1]


@pytest.mark.parametrize(("code", "outcome"), [(0, "succeeded"), (2, "failed")])
def test_a_cleared_task_starts_again_however_it_ended(operator, records, agent, code, outcome):
    execute(operator, ON_RIO)
    exit_with(records, code, outcome)

    execute(operator, {**ON_RIO, "try": 2, "max_tries": 21}, try_number=2, max_tries=21)

    assert [command.ref.fence for command in agent.commands(Start)] == [1, 2]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"outcome": "failed(user)", "reason": "bad shape"}, r"failed\(user\): bad shape"),
        ({"outcome": "cancelled", "failure_class": "cancelled"}, "cancelled: cancelled"),
        (None, "None: None"),
    ],
)
def test_what_no_retry_mends_fails_with_the_reason(operator, event, message):
    with pytest.raises(AirflowFailException, match=message):
        operator.raise_failure({}, event)


def test_a_kill_while_it_starts_cancels_what_it_has_started(operator, records, agent):
    execute(operator, ON_RIO)

    operator.on_kill()

    assert records.get_task("s-1", "i5")["cancel"]["through_fence"] == 1
    assert [command.ref.fence for command in agent.commands(Cancel)] == [1]


@pytest.mark.parametrize("placement", [None, ON_DECK], ids=["before it began", "on deck"])
def test_a_kill_of_what_has_started_nothing_cancels_nothing(operator, records, agent, placement):
    if placement:
        execute(operator, placement)

    operator.on_kill()

    assert agent.sent == []


def test_a_kill_leaves_a_newer_attempt_alone(operator, records, agent, parts):
    execute(operator, ON_RIO)
    tell(records, "lost")
    parts.start(
        StartOrder(submission_id="s-1", task_id="i5", run_id="s-1", attempt=2, server="lima")
    )

    operator.on_kill()

    assert records.get_task("s-1", "i5")["cancel"] is None
    assert agent.commands(Cancel) == []


@pytest.mark.parametrize("kind", ["training", "validation"])
@pytest.mark.parametrize(
    ("placement", "trigger"),
    [
        (ON_RIO, "AgentTrigger"),
        ({**ON_RIO, "server": "runpod", "platform": "runpod", "gpus": 0}, "RunPodTrigger"),
        (ON_DECK, "RunPodTrigger"),
    ],
    ids=["server", "pod", "deck"],
)
def test_what_is_placed_is_waited_for_where_it_was_placed(records, agent, kind, placement, trigger):
    operator = PlacedOperator(task_id="train", spec={**SPEC, "kind": kind})

    found = execute(operator, placement)

    assert type(found).__name__ == trigger
    assert len(agent.sent) == (placement is ON_RIO)
