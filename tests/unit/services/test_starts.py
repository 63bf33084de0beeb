"""How an attempt begins: the intent on record first, then the command."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fakes.agents import FakeAgentHook
from fakes.stores import FakeObjectStore, FakeRecordStore
from fakes.tasks import change_fields
from touchstone.core import phases, retries
from touchstone.core.records.tasks import AttemptPlacement
from touchstone.core.schedule import Training
from touchstone.core.tasks import TaskSpec
from touchstone.hooks.agent import AgentHook
from touchstone.services.starts import Starter, StartOrder, prepare_task
from touchstone.settings import Settings
from touchstone_agent.protocol.envelope import generate_key, load_private_key
from touchstone_agent.protocol.errors import TransientError
from touchstone_agent.protocol.messages import AttemptPhase, Limits, PhaseChanged, SlotClass

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
    limits=Limits(memory_mib=1024),
)


class Unreachable(FakeAgentHook):
    """A queue that is away."""

    def send(self, server, command, *, correlation_id=None):
        raise TransientError("the queue is away")


@pytest.fixture
def records():
    return FakeRecordStore()


@pytest.fixture
def agent():
    return FakeAgentHook()


@pytest.fixture
def make_starter(records, agent):
    def make(hook=None):
        return Starter(
            records=records,
            objects=FakeObjectStore(),
            agent=hook or agent,
            settings=Settings(env="dev"),
        )

    return make


@pytest.fixture
def starter(make_starter):
    return make_starter()


@pytest.fixture
def task(records):
    return prepare(records)


def prepare(records, spec=SPEC, *, run_id="s-1", **arguments):
    return prepare_task(records, spec, run_id=run_id, map_index=0, now=NOW, **arguments)


def order(*, attempt=1, run_id="s-1", server="rio", **fields):
    return StartOrder(
        submission_id="s-1",
        task_id="i5",
        run_id=run_id,
        attempt=attempt,
        server=server,
        **fields,
    )


def tell(records, phase, **details):
    def decide(record):
        event = PhaseChanged(ref=record.ref, phase=AttemptPhase(phase), at=NOW, details=details)
        return phases.apply_phase(record, event, now=NOW)

    return records.change_task("s-1", "i5", decide)


# --- putting a task on record -------------------------------------------------------------------


def test_a_task_is_put_on_record_for_the_instance_that_waits_for_it(records):
    first = prepare(records)

    assert first == records.get_task("s-1", "i5")
    assert (first.run_id, first.map_index, first.newest.number) == ("s-1", 0, 0)


def test_a_new_run_takes_a_task_over_and_outranks_what_runs(records, starter, task):
    starter.start(order())

    taken = prepare(records, run_id="s-1--2")

    assert (taken.run_id, taken.newest.number, taken.fence) == ("s-1--2", 0, 2)
    assert [item.fence for item in taken.past] == [1]


def test_a_plan_made_anew_in_the_same_run_replaces_the_older_one(records, task):
    again = prepare(records, SPEC.model_copy(update={"schedule": Training(seed=7)}))

    assert (again.spec.schedule.seed, again.fence) == (7, task.fence + 1)


# --- starting -----------------------------------------------------------------------------------


def test_the_intent_is_on_record_and_the_command_sent(records, starter, agent, task):
    record = starter.start(order(gpus=1, placement=AttemptPlacement(server="rio", reason="free")))

    assert record == records.get_task("s-1", "i5")
    assert (record.newest.number, record.fence, record.newest.server) == (1, 1, "rio")
    assert record.newest.container == "touchstone-dev-s-1-i5-1-1"
    assert record.newest.placement.reason == "free"
    ((server, command, _),) = agent.sent
    assert server == "rio"
    assert (command.ref, command.gpus) == (record.ref, 1)
    assert command.slot_class is SlotClass.TRAINING
    assert command.inputs[0].sha256 == "a" * 64


def test_a_start_that_no_queue_takes_ends_its_attempt_with_the_reason(records, make_starter):
    """It was tried again for ever, each time as if the server had lost it."""
    real = AgentHook(settings=Settings(env="dev"))
    vars(real)["_key"] = load_private_key(generate_key()[0])
    # Each quote is four characters there; no conf may be as long any more.
    longest = Training(config_overrides=("a.b=" + '"' * 1990,) * 150)
    prepare(records, SPEC.model_copy(update={"schedule": longest}))

    record = make_starter(real).start(order())

    assert (record.status, record.newest.failure_class) == ("error", "config")
    assert record.newest.reason.startswith("it cannot be started: message ")
    assert retries.find_end(record, fence=1, run_id="s-1") is retries.WaitEnd.FAIL


def test_a_start_that_could_not_be_sent_stays_on_record_and_goes_on_from_there(
    records, make_starter, agent, task
):
    with pytest.raises(TransientError):
        make_starter(Unreachable()).start(order())
    assert records.get_task("s-1", "i5").newest.intent_at is not None

    record = make_starter().start(order())

    assert record.fence == 1
    assert [command.ref.fence for _, command, _ in agent.sent] == [1]


def test_the_server_is_that_of_whoever_claimed_it(starter, agent, task):
    """Two dispatchers may have had different ones in mind."""
    starter.start(order(server="rio"))
    starter.start(order(server="lima"))

    assert [server for server, _, _ in agent.sent] == ["rio", "rio"]


@pytest.mark.parametrize("phase", ["accepted", "running", "rejected", "lost"])
def test_what_its_server_has_answered_is_not_sent_again(records, starter, agent, task, phase):
    starter.start(order())
    tell(records, phase)

    starter.start(order())

    assert len(agent.sent) == 1


def test_what_was_cancelled_is_not_sent_again(records, starter, agent, task):
    starter.start(order())
    records.change_task(
        "s-1",
        "i5",
        lambda record: phases.request_cancel(record, by="ann", reason="enough", now=NOW),
    )

    starter.start(order())

    assert len(agent.sent) == 1


def test_what_another_run_has_taken_over_is_neither_claimed_nor_sent(records, starter, agent, task):
    prepare(records, run_id="s-1--2")

    record = starter.start(order(run_id="s-1"))

    assert (record.run_id, record.newest.number) == ("s-1--2", 0)
    assert agent.sent == []


def test_the_next_try_has_a_higher_fence_and_starts_from_nothing(records, starter, agent, task):
    starter.start(order(attempt=1, placement=AttemptPlacement(server="rio")))
    tell(records, "lost")

    record = starter.start(order(attempt=2, server="lima"))

    assert (record.newest.number, record.fence, record.newest.server) == (2, 2, "lima")
    assert (record.newest.phase, record.newest.outcome, record.newest.placement) == (
        None,
        None,
        None,
    )
    assert record.past[0].placement.dump() == {"server": "rio"}
    assert [server for server, _, _ in agent.sent] == ["rio", "lima"]


def test_an_attempt_after_one_that_ran_out_of_memory_gets_twice_as_much(
    records, starter, agent, task
):
    starter.start(order(attempt=1))
    tell(records, "exited", exit_code=137, oom_killed=True)

    starter.start(order(attempt=2))

    assert [command.limits.memory_mib for _, command, _ in agent.sent] == [1024, 2048]


# --- the image ----------------------------------------------------------------------------------

TWO_IMAGES = SPEC.model_copy(update={"image_cuda": "trainer:1-cuda"})


@pytest.mark.parametrize(("gpus", "image"), [(0, "trainer:1"), (1, "trainer:1-cuda")])
def test_a_start_names_the_image_that_is_on_record_for_what_it_is_given(
    records, starter, agent, gpus, image
):
    prepare(records, TWO_IMAGES)

    record = starter.start(order(gpus=gpus))

    ((_, command, _),) = agent.sent
    assert (command.image, command.gpus) == (image, gpus)
    assert (record.newest.image, record.newest.gpus) == (image, gpus)


def test_no_placement_says_which_image_it_is(records, starter, agent):
    prepare(records, TWO_IMAGES)
    note = {"server": "rio", "gpus": 1, "image": "evil:1", "image_cuda": "evil:1"}

    record = starter.start(order(gpus=1, placement=note))

    assert agent.sent[0][1].image == record.newest.image == "trainer:1-cuda"


def test_what_it_is_given_is_decided_once(records, starter, agent):
    """A second caller may have another server in mind, whose GPU the first one has not."""
    prepare(records, TWO_IMAGES)
    starter.start(order(server="cpu", gpus=0))

    starter.start(order(server="gpu", gpus=1))

    assert [(server, start.gpus, start.image) for server, start, _ in agent.sent] == [
        ("cpu", 0, "trainer:1"),
        ("cpu", 0, "trainer:1"),
    ]


def test_an_attempt_that_the_version_before_has_claimed_is_started_as_it_was_placed(
    records, starter, agent, task
):
    starter.start(order(gpus=1))
    change_fields(records, "s-1", "i5", gpus=None, image=None)

    starter.start(order(gpus=1))

    assert [(start.gpus, start.image) for _, start, _ in agent.sent] == [(1, "trainer:1")] * 2
