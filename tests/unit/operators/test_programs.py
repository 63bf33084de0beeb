"""What the operators for anybody's own DAG put on record, start, and refuse."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRescheduleException,
    TaskDeferred,
)

from fakes.agents import FakeAgentHook
from fakes.servers import store_server, write_fields
from fakes.stores import FakeObjectStore, FakeRecordStore
from fakes.tasks import change_fields
from touchstone.core.programs import build_program_ids
from touchstone.core.schedule import Platform
from touchstone.hooks.registry import PinnedImage
from touchstone.operators.programs import AgentOperator, RunPodOperator
from touchstone.services.starts import Starter
from touchstone.settings import RunPodSettings, Settings
from touchstone.triggers.programs import AgentProgramTrigger, RunPodProgramTrigger
from touchstone_agent.protocol.messages import Cancel, Start

COMMAND = ["train", "--out", "{out}"]
GPU = {"name": "NVIDIA L4", "memory_mib": 23034, "uuid": "GPU-1"}
DAY = timedelta(days=1)


@pytest.fixture
def settings():
    return Settings(env="dev", runpod=RunPodSettings(image="trainer:pod"))


@pytest.fixture
def records(settings):
    return FakeRecordStore(settings)


@pytest.fixture
def agent():
    return FakeAgentHook()


@pytest.fixture(autouse=True)
def parts(settings, records, agent, monkeypatch):
    """The operators find their stores by themselves: here they are in memory."""
    starter = Starter(records=records, objects=FakeObjectStore(), agent=agent, settings=settings)
    for module in ("agent", "programs"):
        monkeypatch.setattr(f"touchstone.operators.{module}.get_settings", lambda: settings)
    monkeypatch.setattr("touchstone.stores.records.RecordStore.connect", lambda _: records)
    monkeypatch.setattr("touchstone.services.starts.Starter.connect", lambda _: starter)
    monkeypatch.setattr("touchstone.hooks.agent.AgentHook", lambda settings: agent)


@pytest.fixture
def rio(records):
    """A server of two slots that was just heard of."""
    inventory = {"slots": 2, "validation_slots": 1, "memory_mib": 65536, "disk_free_mib": 90000}
    store_server(
        records,
        {
            "server": "rio",
            "env": "dev",
            "public_key": "k",
            "heartbeat_at": datetime.now(UTC).isoformat(),
            "inventory": inventory,
            "running": [],
        },
    )


def build_context(*, try_number=1, max_tries=0, run_id="manual__1", map_index=-1, conf=None):
    ti = SimpleNamespace(
        dag_id="nightly",
        task_id="report",
        run_id=run_id,
        try_number=try_number,
        max_tries=max_tries,
        map_index=map_index,
    )
    run = SimpleNamespace(
        run_id=run_id, conf=conf, start_date=datetime.now(UTC) - DAY, triggering_user_name="eve"
    )
    return {"ti": ti, "dag_run": run}


def execute(operator, **instance):
    """Run it as a worker does, up to where it defers; return its trigger."""
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(build_context(**instance))
    assert deferred.value.timeout is None  # it would resume on a worker, which needs a slot
    return deferred.value.trigger


def key(run_id="manual__1", map_index=-1):
    return build_program_ids("nightly", run_id, "report", map_index)


def on_rio(**options):
    return AgentOperator(task_id="report", server="rio", **({"command": COMMAND} | options))


def in_pod(**options):
    return RunPodOperator(task_id="report", **({"command": COMMAND} | options))


# --- servers -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("rio")
def test_a_program_is_put_on_record_and_sent_to_the_server_that_its_dag_names(records, agent):
    trigger = execute(on_rio(executable="python", max_hours=2, seed=3))

    task = records.get_task(*key())
    assert (task.newest.server, task.newest.number, task.fence) == ("rio", 1, 1)
    assert (task.spec.program.dag_id, task.spec.program.task_id) == ("nightly", "report")
    (sent,) = agent.commands(Start)
    assert (sent.argv, sent.inputs, sent.gpus) == (("train", "--out", "{out}"), (), 0)
    assert (sent.image, sent.limits.wall_seconds) == ("touchstone-elnigma:local", 7200)
    assert sent.environment["TOUCHSTONE_TRAINER"] == "python"
    assert isinstance(trigger, AgentProgramTrigger)
    assert (trigger.submission_id, trigger.touchstone_task_id) == key()
    assert (trigger.fence, trigger.run_id) == (1, "manual__1")


def test_its_slot_is_one_of_its_servers_pool_and_of_no_other():
    assert on_rio().pool == "rio"
    assert in_pod().pool == "runpod"
    assert on_rio(pool="rio").pool == "rio"
    with pytest.raises(ValueError, match="pool is 'default_pool', and must be 'rio'"):
        on_rio(pool="default_pool")


@pytest.mark.usefixtures("rio")
def test_a_gpu_is_handed_over_where_there_is_one(records, agent):
    write_fields(records, "rio", {"inventory": {"slots": 2, "gpus": [GPU]}})

    execute(on_rio(require_cuda=True))

    assert [(start.gpus, start.requires_gpu) for start in agent.commands(Start)] == [(1, True)]


@pytest.mark.parametrize(
    ("options", "fields", "why"),
    [
        ({"server": "lima"}, {}, "there is no server 'lima'"),
        ({"require_cuda": True}, {}, "rio has no CUDA"),
        ({}, {"declared": {"deny": ["user:dag:*"]}}, "rio denies user:dag:"),
        ({}, {"declared": {"allow": ["feature_set"]}}, "rio allows only feature_set"),
        ({"command": "train --out {out}"}, {}, "command is a text"),
        ({"command": []}, {}, "command"),
        ({"max_hours": 0}, {}, "wall_seconds"),
        ({"memory_mib": 1}, {}, "memory_mib"),
    ],
)
@pytest.mark.usefixtures("rio")
def test_what_cannot_run_there_is_refused_in_one_line_and_nothing_is_sent(
    records, agent, options, fields, why
):
    write_fields(records, "rio", fields)

    with pytest.raises(AirflowFailException, match=why):
        AgentOperator(
            **({"task_id": "report", "server": "rio", "command": COMMAND} | options)
        ).execute(build_context())

    assert agent.sent == []


@pytest.mark.parametrize(
    "fields",
    [
        {"heartbeat_at": "2026-11-22T12:00:00+00:00"},
        {"inventory": {"slots": 1}, "running": [["s-1", "running"]]},
        {
            "holds": {
                "full/training": {
                    "key": "full/training",
                    "kind": "training",
                    "until": "2999-01-01T00:00:00+00:00",
                    "reason": "its disk is full",
                    "times": 1,
                }
            }
        },
    ],
    ids=["silent", "full", "held"],
)
@pytest.mark.usefixtures("rio")
def test_a_server_that_takes_nothing_now_is_waited_for_without_a_retry(records, agent, fields):
    running = [
        [{"submission_id": "s-1", "task_id": "i5", "attempt": 1, "fence": 1}, phase]
        for _, phase in fields.get("running", [])
    ]
    write_fields(records, "rio", fields | {"running": running})

    with pytest.raises(AirflowRescheduleException):
        on_rio().execute(build_context())

    assert agent.sent == []
    assert not records.get_task(*key()).has_attempt


@pytest.mark.usefixtures("rio")
def test_its_own_older_attempt_is_no_obstacle_for_the_next(records, agent):
    """It is outranked, and its agent ends it first."""
    execute(on_rio())
    change_fields(records, *key(), status="lost", outcome="lost", is_retriable=True)
    mine = {"submission_id": key()[0], "task_id": key()[1], "attempt": 1, "fence": 1}
    write_fields(records, "rio", {"inventory": {"slots": 1}, "running": [[mine, "running"]]})

    assert execute(on_rio(), try_number=2).fence == 2


@pytest.mark.usefixtures("rio")
def test_each_map_index_has_a_record_of_its_own(agent):
    for index in (0, 1):
        execute(on_rio(), map_index=index)

    assert len({start.ref.task_key for start in agent.commands(Start)}) == 2


# --- again ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("rio")
def test_a_try_that_runs_twice_starts_one_attempt(records, agent):
    first, second = execute(on_rio()), execute(on_rio())

    assert first.serialize() == second.serialize()
    assert records.get_task(*key()).fence == 1
    assert len({start.ref for start in agent.commands(Start)}) == 1


@pytest.mark.usefixtures("rio")
def test_a_failure_that_no_try_mends_is_raised_by_the_next_one(records, agent):
    execute(on_rio(), max_tries=3)
    change_fields(
        records,
        *key(),
        status="error",
        outcome="failed(user)",
        failure_class="config",
        is_retriable=False,
        reason="config: no such flag",
    )

    with pytest.raises(AirflowFailException, match="config: no such flag"):
        on_rio().execute(build_context(try_number=2, max_tries=3))

    assert len(agent.commands(Start)) == 1
    # Somebody has cleared it: Airflow's limit of tries is another one then.
    assert execute(on_rio(), try_number=2, max_tries=4).fence == 2


@pytest.mark.usefixtures("rio")
def test_what_has_ended_well_is_not_run_again(records, agent):
    execute(on_rio(), max_tries=3)
    change_fields(records, *key(), status="success", outcome="succeeded")

    on_rio().execute(build_context(try_number=2, max_tries=3))

    assert len(agent.commands(Start)) == 1


@pytest.mark.usefixtures("rio")
def test_killed_before_it_is_deferred_it_ends_what_it_has_started(records, agent):
    operator = on_rio()
    execute(operator)

    operator.on_kill()

    assert records.get_task(*key()).newest.cancel.by == "airflow"
    assert len(agent.commands(Cancel)) == 1


@pytest.mark.usefixtures("rio")
def test_a_conf_decides_nothing(agent, records):
    execute(on_rio(), conf={"submission_id": "s-1", "image": "evil", "server": "lima"})

    (sent,) = agent.commands(Start)
    assert sent.image == "touchstone-elnigma:local"
    assert records.get_task(*key()).spec.submitted_by == "dag:nightly"


# --- pods ----------------------------------------------------------------------------------------


def test_a_pod_is_wished_for_and_nothing_is_rented_by_the_worker(records, agent):
    trigger = execute(
        in_pod(gpu="NVIDIA L4", max_price=0.8, budget="2.50", cloud="secure", min_disk_gib=30),
    )

    task = records.get_task(*key())
    assert (task.newest.platform, task.newest.pod) == (Platform.RUNPOD, None)
    asked = task.spec.schedule
    assert (asked.gpu_models, str(asked.max_price), str(asked.budget)) == (
        ("NVIDIA L4",),
        "0.8",
        "2.50",
    )
    assert (asked.cloud, asked.min_disk_gib) == ("secure", 30)
    assert task.spec.image_pod == "trainer:pod"
    assert isinstance(trigger, RunPodProgramTrigger)
    assert agent.sent == []


def test_execution_timeout_is_a_limit_of_the_program(records):
    """Airflow's own would not end it: a deferred task has none."""
    execute(in_pod(max_hours=5, execution_timeout=timedelta(minutes=10)))

    assert records.get_task(*key()).spec.limits.wall_seconds == 600


@pytest.mark.parametrize(
    "options", [{"max_price": -1}, {"cloud": "moon"}, {"gpu": ["x" * 101]}, {"budget": "much"}]
)
def test_a_wish_that_makes_no_sense_is_refused_by_its_name(agent, options):
    with pytest.raises(AirflowFailException, match=r"(?i)max_price|cloud|gpu_models|budget"):
        in_pod(**options).execute(build_context())


def test_an_image_of_a_known_registry_is_pinned_to_its_content(records, monkeypatch):
    pinned = PinnedImage(pinned=f"ghcr.io/ours/report@sha256:{'a' * 64}", note=None)
    monkeypatch.setattr("touchstone.hooks.registry.pin_image", lambda *_: pinned)

    execute(in_pod(image="ghcr.io/ours/report:latest"))

    spec = records.get_task(*key()).spec
    assert spec.image == spec.image_pod == pinned.pinned
