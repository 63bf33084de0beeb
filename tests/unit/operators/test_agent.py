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
from fakes.submissions import build_submission
from fakes.tasks import change_fields
from touchstone.core import phases
from touchstone.core.folds import Fold
from touchstone.core.records.submissions import Submission
from touchstone.core.retries import WaitEnd, find_end
from touchstone.core.sealing import seal_note
from touchstone.core.tasks import TaskSpec
from touchstone.operators.agent import RESCHEDULE_SECONDS, AttemptOperator, PlacedOperator
from touchstone.services.starts import Starter, StartOrder, prepare_task
from touchstone.settings import Settings
from touchstone_agent.protocol.errors import TransientError
from touchstone_agent.protocol.messages import (
    AttemptPhase,
    Cancel,
    Limits,
    PhaseChanged,
    SlotClass,
    Start,
)

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
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
    submitted_by="ann",
)
VALIDATION = SPEC.model_copy(
    update={"task_id": "validation", "kind": SlotClass.VALIDATION, "interval": None}
)
ON_RIO = {
    "server": "rio",
    "gpus": 1,
    "is_on_deck": False,
    "was_on_deck": False,
    "reason": "a slot of rio is free",
    "try": 1,
    "max_tries": 20,
}
PRESTAGED = {"is_on_deck": True, "at": "2026-11-22T12:00:00+00:00", "try": 1}


@pytest.fixture
def records():
    """A submission of two trainings, planned by its first run."""
    store = FakeRecordStore()
    store.create_submission(
        build_submission("s-1", accepted_at=NOW.isoformat(), run_ids=["s-1"], tasks=["i1", "i5"])
    )
    prepare_task(store, SPEC, run_id="s-1", map_index=0, now=NOW)
    other = SPEC.model_copy(update={"task_id": "i1", "interval": 1})
    prepare_task(store, other, run_id="s-1", map_index=1, now=NOW)
    return store


@pytest.fixture
def agent():
    return FakeAgentHook()


@pytest.fixture(autouse=True)
def parts(records, agent, monkeypatch):
    """The operator finds its stores by itself: here they are in memory."""
    settings = Settings(env="dev")
    starter = Starter(records=records, objects=FakeObjectStore(), agent=agent, settings=settings)
    for module in ("agent", "authority"):
        monkeypatch.setattr(f"touchstone.operators.{module}.get_settings", lambda: settings)
    monkeypatch.setattr("touchstone.stores.records.RecordStore.connect", lambda _: records)
    monkeypatch.setattr("touchstone.services.starts.Starter.connect", lambda _: starter)
    monkeypatch.setattr("touchstone.hooks.agent.AgentHook", lambda settings: agent)
    return starter


@pytest.fixture
def operator():
    return AttemptOperator(task_id="train", interval=5)


def seal(placement, ti_id="ti-1"):
    """Return a placement as the dispatcher leaves it in Airflow's task state store."""
    return placement and seal_note(placement, of=ti_id, key=FakeAgentHook.placement_key)


def build_context(
    placement, *, try_number=1, run_id="s-1", map_index=0, max_tries=20, user="ann", conf=None
):
    ti = SimpleNamespace(
        id="ti-1", run_id=run_id, try_number=try_number, map_index=map_index, max_tries=max_tries
    )
    run = SimpleNamespace(run_id=run_id, conf=conf, triggering_user_name=user)
    return {"ti": ti, "dag_run": run, "task_state_store": {"placement": placement}}


def execute(operator, placement, **instance):
    """Run it as a worker does, up to where it defers; return its trigger."""
    context = build_context(seal(placement), **instance)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    assert deferred.value.method_name == "raise_failure"
    assert deferred.value.timeout is None  # it would resume on a worker, which needs a slot
    return deferred.value.trigger


def tell(records, phase, **details):
    def decide(record):
        now = datetime.now(UTC)
        event = PhaseChanged(ref=record.ref, phase=AttemptPhase(phase), at=now, details=details)
        return phases.apply_phase(record, event, now=now)

    return records.change_task("s-1", "i5", decide)


def test_a_placed_try_is_claimed_and_sent_to_its_server(operator, records, agent):
    trigger = execute(operator, ON_RIO)

    record = records.get_task("s-1", "i5")
    assert (record.newest.server, record.newest.number, record.fence) == ("rio", 1, 1)
    assert record.newest.placement.dump() == ON_RIO
    assert [(server, command.gpus) for server, command, _ in agent.sent] == [("rio", 1)]
    assert (trigger.submission_id, trigger.touchstone_task_id) == ("s-1", "i5")
    assert (trigger.fence, trigger.run_id) == (1, "s-1")


@pytest.mark.parametrize(
    "placement",
    [None, {}, seal(ON_RIO), seal(PRESTAGED)],
    ids=["none", "empty", "server", "prestaged"],
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
    assert records.get_task("s-1", "i5").newest.number == 0


@pytest.mark.parametrize(
    "placement",
    [
        ON_RIO,
        {**seal(ON_RIO), "server": "lima"},
        {**seal(ON_RIO), "gpus": 8},
        {**seal(ON_RIO), "try": 1.0},
        seal(ON_RIO, "ti-2"),
        {**ON_RIO, "seal": None},
        {**ON_RIO, "seal": "\ud800"},
        [seal(ON_RIO)],
        "rio",
    ],
    ids=[
        *("unsealed", "another server", "more GPUs", "another number", "another instance's"),
        *("no seal", "a seal that is no text", "a list", "a word"),
    ],
)
def test_a_placement_that_the_dispatcher_has_not_made_is_none(operator, records, agent, placement):
    """Airflow lets its users write into the store that placements are kept in."""
    with pytest.raises(AirflowRescheduleException):
        operator.execute(build_context(placement))

    assert agent.sent == []
    assert records.get_task("s-1", "i5").newest.number == 0


def test_a_prestaged_try_starts_nothing_and_waits_for_the_fence_to_come(operator, records, agent):
    trigger = execute(operator, PRESTAGED)

    assert trigger.fence == 1
    assert agent.sent == []
    assert records.get_task("s-1", "i5").newest.number == 0


def test_a_prestaged_retry_is_not_ended_by_the_end_of_the_attempt_before(operator, records):
    execute(operator, ON_RIO)
    tell(records, "lost")

    trigger = execute(operator, {**PRESTAGED, "try": 2}, try_number=2)

    record = records.get_task("s-1", "i5")
    assert trigger.fence == 2
    assert find_end(record, fence=1, run_id="s-1") is WaitEnd.RETRY
    assert find_end(record, fence=trigger.fence, run_id="s-1") is None


def test_the_fence_that_a_prestaged_try_waits_for_is_the_one_that_is_claimed(
    operator, records, parts
):
    execute(operator, ON_RIO)
    tell(records, "lost")
    trigger = execute(operator, {**PRESTAGED, "try": 2}, try_number=2)

    record = parts.start(
        StartOrder(submission_id="s-1", task_id="i5", run_id="s-1", attempt=2, server="lima")
    )

    assert record.fence == trigger.fence


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
        operator.execute(build_context(seal(ON_RIO)))


# --- what an instance may work on --------------------------------------------------------------


def refuse(operator, records, agent, match, **instance):
    """Run it where it must do nothing at all, to anything on record."""
    before = (records.list_submissions(limit=9, model=Submission), records.list_tasks("s-1"))
    with pytest.raises(AirflowFailException, match=match):
        operator.execute(build_context(seal(ON_RIO), **instance))
    assert (
        records.list_submissions(limit=9, model=Submission),
        records.list_tasks("s-1"),
    ) == before
    assert agent.sent == []


def test_what_is_run_is_what_is_on_record_and_not_what_an_xcom_says(records, agent):
    """An engineer edited the specification in his own XCom: image, limits, submission and all."""
    forged = SPEC.model_dump(mode="json") | {"image": "attacker/any:1", "submission_id": "s-1"}
    operator = AttemptOperator(task_id="train", interval=forged)

    execute(operator, ON_RIO)

    assert {command.image for command in agent.commands(Start)} == {"trainer:1"}
    assert operator.interval == 5


def test_a_run_of_somebody_else_starts_nothing_of_anybodys(operator, records, agent):
    """By his own run's XCom an engineer trained under somebody else's submission."""
    records.create_submission(build_submission("evil", submitted_by="eve", run_ids=["evil"]))
    refuse(operator, records, agent, "evil/i5 is not on record", run_id="evil", user="eve")


@pytest.mark.parametrize(
    "instance",
    [
        {"run_id": "s-1--2", "user": "eve"},
        {"run_id": "s-1", "user": "eve"},
        {"run_id": "s-1", "user": None},
        {"run_id": "manual__1", "user": "eve", "conf": {"submission_id": "s-1"}},
        {"run_id": "s-1--2", "user": "ann"},
        {"run_id": "s-1", "user": "eve", "conf": {"submission_id": ""}},
        {"run_id": "S-1", "user": "ann"},
        {"run_id": "s-1", "user": "ann", "conf": {"submission_id": ["s-1"]}},
        {"run_id": "s-1", "user": "ann", "conf": {"submission_id": "../s-1"}},
    ],
)
def test_a_run_that_the_record_does_not_name_or_a_stranger_triggered_is_refused(
    operator, records, agent, instance
):
    refuse(operator, records, agent, "nothing was changed: run .* may work on", **instance)


def test_an_admin_may_train_what_somebody_else_has_submitted(operator, records, agent):
    execute(operator, ON_RIO, user="admin")

    assert len(agent.sent) == 1


def test_a_run_that_a_newer_one_has_replaced_starts_nothing(operator, records, agent):
    records.change_submission("s-1", lambda found: found.change(run_ids=["s-1", "s-1--2"]))

    refuse(operator, records, agent, "s-1--2 is; clear the task 'register'")


def test_a_run_that_its_submissions_conf_names_is_found_whatever_its_id(records, agent):
    records.change_submission("s-1", lambda found: found.change(run_ids=["s-1", "manual__7"]))
    prepare_task(records, SPEC, run_id="manual__7", map_index=0, now=NOW)

    execute(
        AttemptOperator(task_id="train", interval=5),
        ON_RIO,
        run_id="manual__7",
        conf={"submission_id": "s-1"},
    )

    assert len(agent.sent) == 1


def test_a_task_of_another_run_is_never_renewed(operator, records, agent):
    change_fields(records, "s-1", "i5", run_id="s-1--2")

    refuse(operator, records, agent, "s-1/i5 is not on record for instance 0 of run s-1")


def test_an_instance_starts_only_what_was_planned_for_it(operator, records, agent):
    """The intervals in the XCom were put into another order."""
    refuse(operator, records, agent, "not on record for instance 1", map_index=1)


def test_a_task_whose_record_has_vanished_ends_with_one_line(records, agent):
    operator = AttemptOperator(task_id="train", interval=20)

    refuse(operator, records, agent, "s-1/i20 is not on record .* clear the task 'plan'")


@pytest.mark.parametrize("interval", [0, -1, 251, 5.0, "5", True, [5], {"interval": "5"}, {}, "x"])
def test_what_is_no_interval_is_refused_by_its_name(records, agent, interval):
    operator = AttemptOperator(task_id="train", interval=interval)

    refuse(operator, records, agent, "interval: .* is not a whole number of bars from 1 to 250")


def test_a_training_is_none_where_the_interval_is_missing(records, agent):
    """An XCom of nulls must not make a training the submission's validation."""
    records.change_submission("s-1", lambda found: found.change(accepted_at=None))
    prepare_task(records, VALIDATION, run_id="s-1", map_index=-1, now=NOW)
    operator = AttemptOperator(task_id="train", interval=None)

    refuse(operator, records, agent, "s-1/validation is not on record for instance 0")


def test_what_was_retracted_is_not_trained_again(operator, records, agent):
    records.change_submission("s-1", lambda found: found.change(status="retracted"))

    refuse(operator, records, agent, "s-1 was retracted")


def test_a_validation_of_what_was_accepted_before_is_skipped(records, agent):
    with pytest.raises(AirflowSkipException):
        AttemptOperator(task_id="validate").execute(build_context(None, map_index=-1))

    assert agent.sent == []


@pytest.mark.parametrize("map_index", [-1, None])
def test_a_validation_is_that_of_its_own_run(records, agent, map_index):
    records.change_submission("s-1", lambda found: found.change(accepted_at=None))
    prepare_task(records, VALIDATION, run_id="s-1", map_index=-1, now=NOW)

    execute(AttemptOperator(task_id="validate"), ON_RIO, map_index=map_index)

    assert [command.ref.task_id for command in agent.commands(Start)] == ["validation"]


def test_a_task_that_is_taken_over_while_it_starts_is_left_to_who_took_it(
    operator, records, agent, parts, monkeypatch
):
    start = parts.start

    def take_over_first(order):
        change_fields(records, "s-1", "i5", run_id="s-1--2")
        return start(order)

    monkeypatch.setattr(parts, "start", take_over_first)

    with pytest.raises(AirflowFailException, match="taken over by run s-1--2"):
        operator.execute(build_context(seal(ON_RIO)))

    operator.on_kill()
    assert records.get_task("s-1", "i5").newest.cancel is None


# --- tries after the last one -------------------------------------------------------------------


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
        operator.execute(build_context(seal({**ON_RIO, "try": 2}), try_number=2))

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

    assert records.get_task("s-1", "i5").newest.cancel.through_fence == 1
    assert [command.ref.fence for command in agent.commands(Cancel)] == [1]


@pytest.mark.parametrize("placement", [None, PRESTAGED], ids=["before it began", "prestaged"])
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

    assert records.get_task("s-1", "i5").newest.cancel is None
    assert agent.commands(Cancel) == []


@pytest.mark.parametrize("kind", ["training", "validation"])
@pytest.mark.parametrize(
    ("placement", "trigger"),
    [
        (ON_RIO, "AgentTrigger"),
        ({**ON_RIO, "server": "runpod", "platform": "runpod", "gpus": 0}, "RunPodTrigger"),
        (PRESTAGED, "RunPodTrigger"),
    ],
    ids=["server", "pod", "prestaged"],
)
def test_what_is_placed_is_waited_for_where_it_was_placed(records, agent, kind, placement, trigger):
    is_validation = kind == "validation"
    if is_validation:
        records.change_submission("s-1", lambda found: found.change(accepted_at=None))
        prepare_task(records, VALIDATION, run_id="s-1", map_index=-1, now=NOW)
    operator = PlacedOperator(task_id="train", interval=None if is_validation else 5)

    found = execute(operator, placement, map_index=-1 if is_validation else 0)

    assert type(found).__name__ == trigger
    assert len(agent.sent) == (placement is ON_RIO)


# --- folds ---------------------------------------------------------------------------------------


def put_folds(records):
    """Put two folds of an interval on record, planned by the run."""
    for number in (0, 1):
        fold = Fold(
            number=number, count=2, validation_from=NOW.date(), test_from=NOW.date(), test_to=None
        )
        spec = SPEC.model_copy(update={"task_id": f"i5-f{number}", "fold": fold})
        prepare_task(records, spec, run_id="s-1", map_index=2 + number, now=NOW)


def test_a_fold_is_run_by_its_name_and_shown_by_it(records, agent):
    put_folds(records)
    operator = AttemptOperator(task_id="train", interval="5 fold 1")

    execute(operator, ON_RIO, map_index=3)

    (command,) = agent.commands(Start)
    assert command.ref.task_id == "i5-f1"
    assert operator.interval == "5 fold 1"


def test_an_instance_starts_only_the_fold_that_was_planned_for_it(records, agent):
    put_folds(records)
    operator = AttemptOperator(task_id="train", interval="5 fold 1")

    refuse(operator, records, agent, "s-1/i5-f1 is not on record for instance 2", map_index=2)


def test_a_fold_that_was_never_planned_ends_with_one_line(records, agent):
    operator = AttemptOperator(task_id="train", interval="5 fold 7")

    refuse(operator, records, agent, "s-1/i5-f7 is not on record .* clear the task 'plan'")


@pytest.mark.parametrize(
    "forged",
    [
        *("5 fold 10", "5 fold -1", "251 fold 0", "0 fold 0", "05 fold 0", "5 fold ", " 5 fold 0"),
        *("5 fold 0\n", "5 fold 0/../validation", "5-f0", "i5-f0", "5 fold \u0661", "fold 0"),
        {"interval": "5 fold 0"},
        {"interval": {"interval": 5}},
        ["5 fold 0"],
    ],
)
def test_what_is_no_fold_is_refused_by_its_name(records, agent, forged):
    put_folds(records)
    operator = AttemptOperator(task_id="train", interval=forged)

    refuse(operator, records, agent, "interval: .* is not a whole number of bars from 1 to 250")
