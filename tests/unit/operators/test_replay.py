"""Whose trainings may be run again, what is on record of that, and what it comes to."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowFailException

from fakes.agents import FakeAgentHook
from fakes.stores import FakeObjectStore, FakeRecordStore
from fakes.tasks import change_fields
from touchstone.core.events import parse_event
from touchstone.core.names import build_output_key
from touchstone.core.records.events import EventRecord
from touchstone.core.tasks import TaskSpec
from touchstone.hooks.repository import Content
from touchstone.operators import preparing
from touchstone.operators import register as registering
from touchstone.operators import submission as steps
from touchstone.operators.agent import AttemptOperator
from touchstone.operators.collect import CollectOperator
from touchstone.operators.register import RegisterOperator
from touchstone.settings import Settings
from touchstone.stores import objects as object_hook
from touchstone.stores import records as record_hook
from touchstone_agent.protocol.messages import AttemptRef

CONF = {"source": "https://host/owner/repo.git", "intervals": "5", "seed": 7}
HEADER = b"time,target,score_long,score_short\n"
PREDICTIONS = HEADER + b"2014-01-02,0.5,0.25,0.5\n2014-01-03,0.5,0.5,0.25\n"
OTHER = HEADER + b"2014-01-02,0.5,0.5,0.25\n2014-01-03,0.5,0.25,0.5\n"
MODELS = {"models/long.h5": b"long", "models/short.h5": b"short"}


@pytest.fixture
def settings():
    return Settings(env="dev", admins=("chief",))


@pytest.fixture
def store():
    return FakeObjectStore()


@pytest.fixture
def records():
    return FakeRecordStore()


@pytest.fixture(autouse=True)
def parts(records, store, settings, monkeypatch):
    for module in (
        "submission",
        "register",
        "preparing",
        "authority",
        "replay",
        "collect",
        "agent",
    ):
        monkeypatch.setattr(f"touchstone.operators.{module}.get_settings", lambda: settings)
    monkeypatch.setattr("touchstone.services.checks.get_settings", lambda: settings)
    monkeypatch.setattr("touchstone.stores.records.RecordStore.connect", lambda _: records)
    for module in (preparing, registering):
        monkeypatch.setattr(module, "store_content", lambda _: None)
    content = Content(archive=b"archive", commit="c" * 40)
    monkeypatch.setattr(RegisterOperator, "_fetch", lambda *_: content)
    monkeypatch.setattr(object_hook.ObjectStore, "connect", lambda _: store)
    monkeypatch.setattr(record_hook.RecordStore, "connect", lambda _: records)
    monkeypatch.setattr("touchstone.hooks.agent.AgentHook", lambda **_: FakeAgentHook())
    monkeypatch.setattr("touchstone.hooks.mlflow.MlflowHook", None)


def build_context(run_id, user="ann", **conf):
    run = SimpleNamespace(run_id=run_id, conf=conf, triggering_user_name=user, clear_number=0)
    ti = SimpleNamespace(map_index=0, task_id="x", run_id=run_id, try_number=1, max_tries=99)
    return {"dag_run": run, "params": {}, "ti": ti}


def register(run_id, user="ann", **conf):
    return RegisterOperator(task_id="register").execute(build_context(run_id, user, **conf))


def plan(run_id, user="ann", **conf):
    return steps.PlanOperator(task_id="plan").execute(build_context(run_id, user, **conf))


def leave(records, store, settings, submission_id, *, predictions=PREDICTIONS, **result):
    """Let a training end well, with its files; the fields of a result are its own."""
    fence = records.get_task(submission_id, "i5").fence + 1
    record = change_fields(records, submission_id, "i5", attempt=1, fence=fence)
    ref = AttemptRef(submission_id=submission_id, task_id="i5", attempt=1, fence=int(record.fence))
    document = {
        "contract": 1,
        "submission_id": submission_id,
        "task_id": "i5",
        "prediction_interval": 5,
        "metrics": {"net_sharpe": 0.5},
        "device": {"determinism": "cpu avx2 jax 0.10.2"},
        "versions": {"jax": "0.10.2"},
        "data": {"sha256": "d"},
        "seed": 7,
        "files": [{"path": path} for path in MODELS],
        **result,
    }
    files = []
    found = {"result.json": json.dumps(document).encode(), "predictions.csv": predictions, **MODELS}
    for path, body in found.items():
        store.put_new(settings.content_bucket, build_output_key(ref, path), body)
        digest = hashlib.sha256(body).hexdigest()
        files.append({"path": path, "sha256": digest, "size": len(body)})
    change_fields(
        records,
        submission_id,
        "i5",
        status="uploading",
        outcome="succeeded",
        files=files,
        uploaded_at="2026-11-29T00:00:00+00:00",
        server="rio",
        container="c",
    )


@pytest.fixture
def trained(records, store, settings):
    """A submission of ann's whose one training has ended well."""
    register("mine", **CONF)
    change_fields(records, "mine", "validation", status="success", outcome="succeeded")
    assert steps.accept_submission(**build_context("mine", **CONF)) is True
    plan("mine", **CONF)
    leave(records, store, settings, "mine")
    change_fields(records, "mine", "i5", status="success")
    records.change_submission("mine", lambda found: found.change(status="success", score=0.5))
    return "mine"


def run_again(records, store, settings, run_id="again", user="ann", **left):
    """Take a replay through all its steps, and return its records."""
    conf = {"replay": "mine/i5"}
    assert register(run_id, user, **conf) == run_id
    assert steps.accept_submission(**build_context(run_id, user, **conf)) is True
    assert plan(run_id, user, **conf) == [5]
    leave(records, store, settings, run_id, **left)
    operator = CollectOperator(task_id="collect", interval=5)
    operator.publish(build_context(run_id, user, **conf))
    steps.evaluate_submission(**build_context(run_id, user, **conf))
    return records.get_submission(run_id), records.get_task(run_id, "i5")


def test_a_replay_is_a_submission_of_its_own_that_says_how_like_its_outcome_is(
    records, store, settings, trained
):
    before = records.get_submission(trained), records.list_tasks(trained)

    submission, task = run_again(records, store, settings)

    assert (submission.status, submission.verdict) == ("success", "identical")
    assert submission.replay_of == "mine/i5"
    assert submission.score is None
    assert submission.content_sha256 == before[0].content_sha256
    assert task.newest.published.replay.verdict == "identical"
    assert (records.get_submission(trained), records.list_tasks(trained)) == before
    # Nothing of it is anybody's result.
    assert records.list_evaluations("again") == []
    assert not store.list(settings.models_bucket, "again/")


def test_a_replay_that_differs_succeeds_as_a_run_and_says_so(records, store, settings, trained):
    submission, _ = run_again(records, store, settings, predictions=OTHER)

    assert (submission.status, submission.verdict) == ("success", "different")
    assert "where bits must be the same" in submission.verdict_reason


def test_a_replay_on_other_hardware_is_judged_by_the_bounds(records, store, settings, trained):
    device = {"determinism": "NVIDIA L4 driver 550 jax 0.10.2 cuda 12.8"}
    near = PREDICTIONS.replace(b"0.25", b"0.26")

    submission, task = run_again(records, store, settings, predictions=near, device=device)

    assert submission.verdict == "equivalent"
    assert task.newest.published.replay.dump()["is_same_class"] is False


def test_it_is_charged_to_whoever_asked_and_runs_what_was_run(records, settings, trained):
    vars(settings)["trainer_image"] = "another:2"

    register("again", "chief", replay="mine/i5")
    plan("again", "chief", replay="mine/i5")

    old, new = (
        TaskSpec.model_validate(records.get_task(name, "i5").spec) for name in ("mine", "again")
    )
    assert (new.submitted_by, new.image, new.schedule.seed) == ("chief", old.image, 7)
    assert records.get_submission("again").submitted_by == "chief"
    assert records.get_submission("mine").run_ids == ("mine",)


def test_its_content_is_not_validated_again(records, trained):
    register("again", replay="mine/i5")

    context = build_context("again", replay="mine/i5")
    assert records.find_task("again", "validation") is None
    with pytest.raises(Exception, match="validated before"):
        AttemptOperator(task_id="validate").execute(context)


@pytest.mark.parametrize("user", ["eve", "unknown"])
def test_somebody_elses_training_is_not_there(records, trained, user):
    with pytest.raises(AirflowFailException, match="there is no training 'mine/i5'"):
        register("again", user, replay="mine/i5")
    with pytest.raises(AirflowFailException, match="there is no training 'none/i5'"):
        register("again-2", user, replay="none/i5")

    assert records.get_submission("again").status == "rejected"
    assert "content_sha256" not in records.get_submission("again").dump()


@pytest.mark.parametrize(
    ("changes", "task_changes", "reason"),
    [
        ({"status": "retracted"}, {}, "replay: mine was retracted"),
        ({}, {"status": "error"}, "replay: mine/i5: it is error"),
        ({}, {"files": []}, r"replay: mine/i5 has left no result\.json"),
    ],
)
def test_what_has_no_outcome_is_not_replayed(records, trained, changes, task_changes, reason):
    records.change_submission("mine", lambda found: found.change(**changes))
    change_fields(records, "mine", "i5", **(task_changes or {}))

    with pytest.raises(AirflowFailException, match=reason):
        register("again", replay="mine/i5")


def test_a_branch_is_replayed_by_nobody_who_may_not_name_one(records, settings, trained):
    checkout = {"commit": "e" * 40, "sha256": "f" * 64, "size": 9}
    config = records.get_task("mine", "i5").dump()["config"] | {"elnigma": checkout}
    change_fields(records, "mine", "i5", config=config)
    with pytest.raises(AirflowFailException, match="branch: ann may not name a branch"):
        register("again", replay="mine/i5")

    vars(settings)["branch_users"] = ("ann",)
    register("another", replay="mine/i5")
    plan("another", replay="mine/i5")
    assert records.get_task("another", "i5").spec.elnigma.model_dump() == checkout


def test_a_step_that_is_repeated_takes_what_it_took_whatever_the_original_became(
    records, store, settings, trained
):
    register("again", replay="mine/i5")
    first = records.get_submission("again").replay_spec
    change_fields(records, "mine", "i5", status="error", files=[])

    register("again", replay="mine/i5")

    found = records.get_submission("again")
    assert (found.replay_spec, found.run_ids) == (first, ("again",))


@pytest.mark.parametrize(
    ("run_id", "user", "conf"),
    [
        ("mine", "ann", {"replay": "mine/i5"}),
        ("again", "eve", {"replay": "mine/i5"}),
        ("again", "ann", {"replay": "mine/i1"}),
        ("again", "ann", CONF),
        ("again--2", "ann", {"replay": "mine/i5"}),
    ],
)
def test_an_id_that_is_taken_is_nobody_elses_replay(records, trained, run_id, user, conf):
    register("again", replay="mine/i5")
    before = [records.get_submission(name) for name in ("mine", "again")]

    with pytest.raises(AirflowFailException, match="exists already"):
        register(run_id, user, **conf)

    assert [records.get_submission(name) for name in ("mine", "again")] == before


def test_a_replay_tells_nothing_that_its_original_holds_back(records, store, settings, trained):
    """Running a training again would otherwise show the figures that an event still hides."""
    text = 'schema_version = 1\ntitle = "t"\n[rows]\nclosed_from = 2016-01-01\n'
    event = EventRecord(
        entry="winter", definition=parse_event(text, name="winter"), digest="0", version=1
    )
    records.put_stored(settings.events_table, event.dump())
    schedule = records.get_submission("mine").schedule.model_copy(update={"event": "winter"})
    records.change_submission("mine", lambda found: found.change(schedule=schedule))

    again, task = run_again(records, store, settings)

    assert task.newest.published.held_back == "winter"
    assert (again.score, again.verdict_reason) == (None, "after closing")
    assert [line.metrics for line in again.results] == [{}]
    assert again.verdict == "held back"


def test_a_replay_cannot_be_made_anybodys_result(records, store, settings, trained):
    run_again(records, store, settings, user="chief")

    with pytest.raises(AirflowFailException, match="is a replay of mine/i5"):
        register("again--2", "chief", submission_id="again", intervals="5")
    with pytest.raises(AirflowFailException, match="baseline: 'again' is a replay"):
        register("third", "chief", **CONF | {"baseline": "again"})
    with pytest.raises(AirflowFailException, match="it is a replay itself, of mine/i5"):
        register("fourth", "chief", replay="again/i5")


@pytest.mark.parametrize(
    ("left", "reason", "outcome"),
    [
        ({"predictions": b"x"}, "predictions.csv: has no rows", "failed(user)"),
        ({"metrics": {"a": "b"}}, "result.json: metric 'a'", "failed(user)"),
    ],
)
def test_what_cannot_be_compared_fails_with_the_reason(
    records, store, settings, trained, left, reason, outcome
):
    with pytest.raises(AirflowFailException, match=reason):
        run_again(records, store, settings, **left)

    task = records.get_task("again", "i5")
    assert (task.status, task.newest.outcome) == ("error", outcome)


def test_an_original_whose_files_are_gone_is_told_as_that(records, store, settings, trained):
    conf = {"replay": "mine/i5"}
    register("again", **conf)
    plan("again", **conf)
    spec = TaskSpec.model_validate(records.get_task("again", "i5").spec)
    leave(records, store, settings, "again")
    key = build_output_key(spec.replay.ref, "predictions.csv")
    store.objects.pop((settings.content_bucket, key))

    with pytest.raises(AirflowFailException):
        CollectOperator(task_id="collect", interval=5).publish(build_context("again", **conf))

    task = records.get_task("again", "i5")
    assert (task.newest.outcome, task.newest.failure_class) == ("failed(infrastructure)", "collect")


def test_a_replay_is_not_cleared_once_its_original_was_retracted(records, store, settings, trained):
    register("again", replay="mine/i5")
    records.change_submission("again", lambda found: found.change(status="cancelled"))
    records.change_submission("mine", lambda found: found.change(status="retracted"))
    with pytest.raises(AirflowFailException, match="replay: mine was retracted"):
        register("again", replay="mine/i5")


def test_a_replay_keeps_the_waivers_of_what_it_replays(records, store, settings):
    conf = {**CONF, "waived_columns": ["target"]}
    register("mine", **conf)
    change_fields(records, "mine", "validation", status="success", outcome="succeeded")
    assert steps.accept_submission(**build_context("mine", **conf)) is True
    plan("mine", **conf)
    leave(records, store, settings, "mine")
    change_fields(records, "mine", "i5", status="success", outcome="succeeded")

    register("again", replay="mine/i5")
    plan("again", replay="mine/i5")

    assert records.get_submission("again").waived_columns == ("target",)
    assert records.get_task("again", "i5").spec.waived_columns == ("target",)
