"""How a run is closed, whatever became of its trainings."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowFailException

from fakes.agents import FakeAgentHook
from fakes.stores import FakeObjectStore, FakeRecordStore
from fakes.submissions import build_submission
from fakes.tasks import change_fields
from touchstone.core import attempts
from touchstone.core.tasks import TaskSpec
from touchstone.operators import submission as steps
from touchstone_agent.protocol.messages import Cancel, Limits

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
    limits=Limits(cpus=1, memory_mib=256, wall_seconds=60),
)


@pytest.fixture
def records():
    store = FakeRecordStore()
    store.create_submission(
        build_submission(
            "s-1",
            status="running",
            accepted_at=NOW.isoformat(),
            tasks=["i5"],
            run_ids=["s-1"],
            schedule={"intervals": [5]},
        )
    )
    store.create_task(attempts.new_task(SPEC, run_id="s-1", map_index=0, now=NOW))
    store.change_task(
        "s-1",
        "i5",
        lambda record: attempts.claim_attempt(
            record,
            attempt=1,
            server="local",
            container_of=lambda ref: ref.container_name("dev"),
            now=NOW,
        ),
    )
    return store


@pytest.fixture
def agent(monkeypatch, records):
    hook = FakeAgentHook()
    monkeypatch.setattr("touchstone.stores.records.RecordStore.connect", lambda _: records)
    monkeypatch.setattr("touchstone.hooks.agent.AgentHook", lambda: hook)
    monkeypatch.setattr(
        "touchstone.stores.objects.ObjectStore.connect", lambda _: FakeObjectStore()
    )
    return hook


def evaluate():
    run = SimpleNamespace(run_id="s-1", conf={}, triggering_user_name="ann")
    steps.evaluate_submission(dag_run=run)


def test_an_attempt_that_outlives_its_airflow_task_is_cancelled_and_so_is_the_submission(
    records, agent
):
    with pytest.raises(AirflowFailException, match="cancelled: i5"):
        evaluate()

    assert records.get_submission("s-1").status == "cancelled"
    assert records.get_task("s-1", "i5").newest.cancel.by == "airflow"
    assert len(agent.commands(Cancel)) == 1


def test_what_another_run_has_taken_over_goes_on(records, agent):
    change_fields(records, "s-1", "i5", run_id="s-1--2")

    with pytest.raises(AirflowFailException):
        evaluate()

    assert records.get_task("s-1", "i5").newest.cancel is None
    assert agent.sent == []
