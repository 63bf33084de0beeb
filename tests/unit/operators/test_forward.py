"""Models are scored on later rows by a run of the installation's own, and by nobody else's."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
import random
import tempfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowFailException

from fakes.agents import FakeAgentHook
from fakes.data_sets import add
from fakes.stores import FakeObjectStore, FakeRecordStore
from fakes.tasks import change_fields
from touchstone.core.conf import parse_conf
from touchstone.core.data_sets import PinnedData
from touchstone.core.forward import list_scorable
from touchstone.core.names import build_data_key, build_output_key
from touchstone.core.tasks import build_argv, build_start, find_forward, list_inputs
from touchstone.hooks.repository import Content
from touchstone.operators import preparing
from touchstone.operators import register as registering
from touchstone.operators import submission as steps
from touchstone.operators.collect import CollectOperator
from touchstone.operators.forward import WantForwardOperator
from touchstone.operators.register import RegisterOperator
from touchstone.services.forward import want_scores
from touchstone.services.starts import grant_inputs
from touchstone.settings import Settings
from touchstone.stores import objects as object_hook
from touchstone.stores import records as record_hook
from touchstone.stores.data_sets import DataStore
from touchstone_agent.protocol.errors import ConfigurationError
from touchstone_agent.protocol.messages import AttemptRef

CONF = {"source": "https://host/owner/repo.git", "intervals": "5", "seed": 7}
INTERVAL, OLD, NEW = 5, 900, 1300
START = dt.datetime(2017, 8, 1, tzinfo=dt.UTC)
TIMES = [START + dt.timedelta(hours=4 * row) for row in range(NEW)]
DRAW = random.Random(5)
CLOSE = [1.1]
for _ in TIMES[1:]:
    CLOSE.append(CLOSE[-1] * math.exp(DRAW.gauss(0, 0.002)))
SCORES = [(DRAW.uniform(0.3, 0.7), DRAW.uniform(0.3, 0.7)) for _ in TIMES]
VALIDATION, TEST = dt.datetime(2017, 10, 1, tzinfo=dt.UTC), dt.datetime(2017, 12, 1, tzinfo=dt.UTC)
SAVED = TIMES[OLD - 1] + dt.timedelta(hours=8)
ADDED, LATER = SAVED - dt.timedelta(hours=5), TIMES[-1] + dt.timedelta(hours=4)
MODELS = {f"models/{side}.h5": side.encode() for side in ("long", "short")}


def write_rows(rows, revised=None):
    lines = [
        f"{moment.isoformat()},{0.5 if row == revised else close!r}"
        for row, (moment, close) in enumerate(zip(TIMES[:rows], CLOSE, strict=False))
    ]
    return "\n".join(["time,close", *lines, ""]).encode()


def write_predictions(rows, scores=SCORES):
    known = [
        (row, moment, TIMES[row + INTERVAL])
        for row, moment in enumerate(TIMES[: rows - INTERVAL])
        if moment >= VALIDATION
    ]
    lines = [
        f"{moment.isoformat()},{'test' if moment >= TEST else 'validation'},"
        f"{scores[row][0]!r},{scores[row][1]!r}"
        for row, moment, outcome in known
        if moment >= TEST or outcome < TEST
    ]
    return "\n".join(["time,part,score_long,score_short", *lines, ""]).encode()


@pytest.fixture
def settings(tmp_path):
    return Settings(env="dev", admins=("chief",), data_cache=tmp_path / "cache")


@pytest.fixture
def store():
    return FakeObjectStore()


@pytest.fixture
def records():
    return FakeRecordStore()


@pytest.fixture(autouse=True)
def parts(records, store, settings, monkeypatch):
    modules = ("submission", "register", "preparing", "authority", "replay", "collect", "forward")
    for module in modules:
        monkeypatch.setattr(f"touchstone.operators.{module}.get_settings", lambda: settings)
    monkeypatch.setattr("touchstone.services.checks.get_settings", lambda: settings)
    for module in (preparing, registering):
        monkeypatch.setattr(module, "store_content", lambda _: None)
    content = Content(archive=b"archive", commit="c" * 40)
    monkeypatch.setattr(RegisterOperator, "_fetch", lambda *_: content)
    monkeypatch.setattr(object_hook.ObjectStore, "connect", lambda _: store)
    monkeypatch.setattr(record_hook.RecordStore, "connect", lambda _: records)
    monkeypatch.setattr("touchstone.hooks.agent.AgentHook", lambda **_: FakeAgentHook())
    monkeypatch.setattr("touchstone.hooks.mlflow.MlflowHook", None)


def build_context(run_id, user=None, **conf):
    run = SimpleNamespace(run_id=run_id, conf=conf, triggering_user_name=user, clear_number=0)
    ti = SimpleNamespace(map_index=0, task_id="x", run_id=run_id, try_number=1, max_tries=99)
    return {"dag_run": run, "params": {}, "ti": ti}


def register(run_id, user=None, **conf):
    return RegisterOperator(task_id="register").execute(build_context(run_id, user, **conf))


def leave(records, store, settings, submission_id, files, **fields):
    """Let an attempt end well, with its files."""
    fence = records.get_task(submission_id, "i5").fence + 1
    change_fields(records, submission_id, "i5", attempt=1, fence=fence)
    ref = AttemptRef(submission_id=submission_id, task_id="i5", attempt=1, fence=fence)
    told = []
    for path, body in files.items():
        store.put_new(settings.content_bucket, build_output_key(ref, path), body)
        digest = hashlib.sha256(body).hexdigest()
        told.append({"path": path, "sha256": digest, "size": len(body)})
    change_fields(
        records,
        submission_id,
        "i5",
        **{
            "status": "uploading",
            "outcome": "succeeded",
            "files": told,
            "uploaded_at": SAVED.isoformat(),
            "server": "rio",
            "container": "c",
            **fields,
        },
    )


@cache
def build_data(version, rows, revised):
    """Return the record and the archive of a version: packing takes a second."""
    known, objects, settings = FakeRecordStore(), FakeObjectStore(), Settings(env="dev")
    with tempfile.TemporaryDirectory() as name:
        record = add(
            known,
            objects,
            settings,
            Path(name),
            body=write_rows(rows, revised),
            version=version,
        )
    key = build_data_key(record.sha256)
    return record, objects.get(settings.content_bucket, key, sha256=record.sha256)


def put_data(records, store, settings, version, *, at, rows, revised=None):
    record, archive = build_data(version, rows, revised)
    record = record.change(added_at=at, stored_at=at)
    DataStore(records, settings.events_table).change_data_set(record, lambda _: None)
    store.put_new(settings.content_bucket, build_data_key(record.sha256), archive)
    return record


@pytest.fixture
def trained(records, store, settings):
    """A submission of ann's whose one training on a data set was judged."""
    data = put_data(records, store, settings, "2018-02", at=ADDED, rows=OLD)
    pinned = PinnedData(
        name="eurusd-hourly",
        version="2018-02",
        digest=data.digest,
        sha256=data.sha256,
        size=data.size,
        validation_from=VALIDATION.date(),
        test_from=TEST.date(),
        bars_per_year=6240,
    )
    register("mine", "ann", **CONF)
    change_fields(records, "mine", "validation", status="success", outcome="succeeded")
    steps.accept_submission(**build_context("mine", "ann", **CONF))
    steps.PlanOperator(task_id="plan").execute(build_context("mine", "ann", **CONF))
    config = records.get_task("mine", "i5").dump()["config"]
    models = [
        {"strategy": side, "sha256": hashlib.sha256(side.encode()).hexdigest()}
        for side in ("long", "short")
    ]
    leave(
        records,
        store,
        settings,
        "mine",
        {"result.json": b"{}", "predictions.csv": write_predictions(OLD), **MODELS},
        config={**config, "data": pinned.model_dump(mode="json")},
        status="success",
        published={"judged": {"status": "judged"}, "models": models},
    )
    records.change_submission(
        "mine", lambda found: found.change(status="success", data=pinned.model_dump(), score=0.5)
    )
    return "mine"


@pytest.fixture
def gain(records, store, settings):
    """Add a newer version of the data set."""

    def gain(version="2018-03", *, at=LATER, rows=NEW, revised=None):
        return put_data(records, store, settings, version, at=at, rows=rows, revised=revised)

    return gain


def want(user=None):
    return WantForwardOperator(task_id="want").execute(build_context("scheduled__1", user))


def run(records, store, settings, wanted, predictions=None, user=None):
    """Take a wanted run through all its steps."""
    run_id, conf = wanted["trigger_run_id"], wanted["conf"]
    context = build_context(run_id, user, **conf)
    register(run_id, user, **conf)
    assert steps.accept_submission(**context) is True
    assert steps.PlanOperator(task_id="plan").execute(context) == [INTERVAL]
    said = write_predictions(NEW) if predictions is None else predictions
    leave(records, store, settings, run_id, {"result.json": b"{}", "predictions.csv": said})
    CollectOperator(task_id="collect", interval=INTERVAL).publish(context)
    steps.evaluate_submission(**context)
    return records.get_submission(run_id)


def test_a_data_set_that_gains_rows_gives_its_models_a_score_after_submission(
    records, store, settings, trained, gain
):
    assert want() == []
    gain()
    before = records.get_submission("mine")

    (wanted,) = want()

    assert wanted["conf"] == {"replay": "mine/i5", "data_version": "2018-03"}
    ran = run(records, store, settings, wanted)
    assert (ran.status, ran.verdict, ran.submitted_by) == ("success", "scored", "unknown")
    mine = records.get_submission("mine")
    (score,) = mine.forward
    assert (score.task_id, score.data, score.reason) == ("i5", "eurusd-hourly 2018-03", None)
    # A day later than the models at least, and until the last one whose outcome is known.
    assert score.first > SAVED + dt.timedelta(days=1)
    assert score.last == TIMES[NEW - INTERVAL - 1]
    assert score.rows == sum(
        moment > SAVED + dt.timedelta(days=1) for moment in TIMES[: NEW - INTERVAL]
    )
    assert score.metrics["net_sharpe_low"] < score.metrics["net_sharpe"]
    # Verdict, score and results stay what they were, and nothing of it is published.
    assert mine.change(forward=(), version=before.version) == before.change(forward=())
    assert records.list_evaluations(wanted["trigger_run_id"]) == []
    assert not store.list(settings.models_bucket, wanted["trigger_run_id"])
    # It was scored on this version: nothing is wanted any more.
    assert want() == []


def test_what_runs_is_the_content_with_the_models_as_they_were_left_and_the_newer_data(
    records, store, settings, trained, gain
):
    newer = gain()
    (wanted,) = want()
    register(wanted["trigger_run_id"], **wanted["conf"])

    spec = records.get_submission(wanted["trigger_run_id"]).replay_spec

    argv = build_argv(spec)
    assert argv[:3] == ("score", "--models", "{in}/models")
    assert argv.count("--config_override") == 2
    assert "split.test_from=2017-12-01" in argv
    inputs = list_inputs(spec)
    was = records.get_task("mine", "i5")
    assert inputs["content"].sha256 == was.spec.content_sha256
    assert inputs["data"].sha256 == newer.sha256
    for path, body in MODELS.items():
        assert inputs[path].sha256 == hashlib.sha256(body).hexdigest()
        assert inputs[path].key == build_output_key(was.ref, path)
    start = build_start(spec, was.ref, grant_inputs(store, settings, spec))
    assert {each.path: each.unpack for each in start.inputs} == {
        "content": True,
        "data": True,
        "models/long.h5": False,
        "models/short.h5": False,
    }
    # Nobody asked for it, so it rents nothing.
    assert spec.schedule.platform == "on-prem"
    assert find_forward(was.spec) is None
    stored = json.loads(spec.model_dump_json())
    assert type(spec).model_validate(stored) == spec


def test_a_look_that_is_repeated_starts_the_same_runs_and_no_others(records, trained, gain):
    gain()
    first = want()
    assert want() == first
    (line,) = records.get_submission("mine").forward
    assert line.is_open
    assert line.run_id == first[0]["trigger_run_id"]


def test_a_still_newer_version_is_scored_anew_and_takes_the_place(
    records, store, settings, trained, gain
):
    gain("2018-03", rows=NEW - 100, at=TIMES[NEW - 100])
    (first,) = want()
    run(records, store, settings, first, write_predictions(NEW - 100))
    rows = records.get_submission("mine").forward[0].rows
    gain("2018-04")

    (second,) = want()

    assert second["conf"]["data_version"] == "2018-04"
    run(records, store, settings, second)
    (score,) = records.get_submission("mine").forward
    assert (score.data, score.rows) == ("eurusd-hourly 2018-04", rows + 100)


def _other_rows():
    return write_predictions(NEW).replace(b",test,", b",validation,", 1)


def _no_number():
    *lines, last, end = write_predictions(NEW).split(b"\n")
    return b"\n".join([*lines, last[: last.rindex(b",")] + b",nan", end])


HOSTILE = {
    "other rows": (_other_rows, "other rows (predictions.csv: "),
    "too few": (lambda: write_predictions(NEW - 1), "other rows (predictions.csv: "),
    "too many": (lambda: write_predictions(NEW) * 4, "predictions.csv: "),
    "no number": (_no_number, "predictions.csv: score_short of "),
    "nothing": (lambda: b"", "predictions.csv: has the columns "),
    "other models": (
        lambda: write_predictions(NEW, [(short, long) for long, short in SCORES]),
        "other models (predictions.csv: ",
    ),
}


@pytest.mark.parametrize(("said", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_predictions_that_are_not_the_models_of_these_rows_give_no_figure(
    records, store, settings, trained, gain, said, reason
):
    gain()
    (wanted,) = want()

    ran = run(records, store, settings, wanted, said())

    assert (ran.status, ran.verdict) == ("success", "not scored")
    (score,) = records.get_submission("mine").forward
    assert score.reason.startswith(reason)
    assert (score.rows, dict(score.metrics)) == (0, {})
    assert want() == []


def test_data_whose_old_rows_changed_give_no_figure_and_name_the_row(
    records, store, settings, trained, gain
):
    gain(revised=700)
    (wanted,) = want()
    run(records, store, settings, wanted)
    (score,) = records.get_submission("mine").forward
    assert score.reason.startswith(f"other data (close of {TIMES[700].isoformat()} is 0.5 in ")


def test_rows_that_came_before_the_models_do_not_count(records, store, settings, trained, gain):
    change_fields(records, "mine", "i5", uploaded_at=(LATER + dt.timedelta(days=9)).isoformat())
    gain()
    (wanted,) = want()
    run(records, store, settings, wanted)
    (score,) = records.get_submission("mine").forward
    assert score.reason.startswith("no rows yet (rows count from ")


# --- whose run it is -----------------------------------------------------------------------------


def test_a_run_of_nobodys_name_that_no_record_wants_may_score_nothing(records, trained, gain):
    gain()
    conf = {"replay": "mine/i5", "data_version": "2018-03"}
    with pytest.raises(AirflowFailException, match="there is no training 'mine/i5'"):
        register("forward-guessed", **conf)
    (wanted,) = want()
    with pytest.raises(AirflowFailException, match="there is no training 'mine/i5'"):
        register("forward-guessed-too", **conf)
    # Nor may the wanted run replay, or take other data than it is wanted for.
    with pytest.raises(AirflowFailException, match="there is no training"):
        register(wanted["trigger_run_id"], replay="mine/i5")


@pytest.mark.parametrize("user", ["eve", "ann"])
def test_somebody_by_name_has_his_own_rights(records, store, settings, trained, gain, user):
    gain()
    (wanted,) = want()
    if user == "eve":
        with pytest.raises(AirflowFailException, match="there is no training 'mine/i5'"):
            register(wanted["trigger_run_id"], user, **wanted["conf"])
        assert records.get_submission("mine").forward[0].is_open
        return
    ran = run(records, store, settings, {**wanted, "trigger_run_id": "by-hand"}, user=user)
    assert (ran.submitted_by, ran.verdict) == ("ann", "scored")
    assert records.get_submission("mine").forward[0].run_id == "by-hand"


def test_what_an_admin_looks_for_at_once_rents_nothing_either(records, trained, gain):
    gain()
    (wanted,) = want("chief")
    register(wanted["trigger_run_id"], "chief", **wanted["conf"])
    found = records.get_submission(wanted["trigger_run_id"])
    assert (found.submitted_by, found.replay_spec.schedule.platform) == ("chief", "on-prem")
    # Asked for by hand, it may run wherever the training might.
    register("by-hand", "chief", **wanted["conf"])
    assert records.get_submission("by-hand").replay_spec.schedule.platform != "on-prem"


def test_only_admins_and_the_schedule_look_for_all(trained, gain):
    gain()
    with pytest.raises(AirflowFailException, match="eve may not look for all"):
        want("eve")
    assert len(want("chief")) == 1


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("2018-02", "data_version: '2018-02' was not added after eurusd-hourly 2018-02"),
        ("2019-01", "'eurusd-hourly' has no version '2019-01'; there are 2018-03, 2018-02"),
        ("no version", "data_version: 'no version' is not of a-z"),
    ],
)
def test_another_version_than_a_newer_one_is_refused(trained, gain, version, reason):
    gain()
    with pytest.raises(AirflowFailException) as caught:
        register("by-hand", "ann", replay="mine/i5", data_version=version)
    assert reason in str(caught.value)


def test_a_version_without_a_training_is_no_conf():
    with pytest.raises(ConfigurationError, match="data_version: only the models of a training"):
        parse_conf({**CONF, "data_version": "2018-03"})


def test_of_folds_the_last_ones_models_are_scored_and_the_end_of_an_event_is_none():
    assert list_scorable(["i5-f0", "i5-f2", "i5-f1", "i20", "i1-f0"]) == ("i1-f0", "i20", "i5-f2")


def test_rows_go_on_behind_what_an_event_or_an_override_ended(
    records, store, settings, trained, gain
):
    config = records.get_task("mine", "i5").dump()["config"]
    data = {**config["data"], "test_to": "2017-12-20"}
    training = {
        **config["schedule"],
        "config_overrides": ["split.test_to=2017-12-20", "model.l2=1"],
    }
    change_fields(records, "mine", "i5", config={**config, "data": data, "schedule": training})
    gain()
    (wanted,) = want()
    register(wanted["trigger_run_id"], **wanted["conf"])

    spec = records.get_submission(wanted["trigger_run_id"]).replay_spec

    argv = build_argv(spec)
    assert not any(each.startswith("split.test_to") for each in argv)
    assert "model.l2=1" in argv
    # By which the training was judged: its predictions end there.
    assert find_forward(spec).rules.test_to == dt.date(2017, 12, 20)


# --- what is not scored, and what goes wrong -----------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"waived_columns": ("holidays",)},
        {"status": "retracted"},
        {"status": "error"},
        {"replay_of": "other/i5"},
        {"data": None},
    ],
)
def test_what_can_have_no_score_is_passed_over(records, trained, gain, changes):
    gain()
    records.change_submission("mine", lambda found: found.change(**changes))
    assert want() == []


def test_a_training_that_is_not_judged_or_held_back_is_passed_over(records, trained, gain):
    gain()
    published = records.get_task("mine", "i5").newest.published.dump()
    for changes in ({"judged": {"status": "not judged"}}, {"held_back": "winter"}):
        change_fields(records, "mine", "i5", published={**published, **changes})
        assert want() == []


def test_records_that_make_no_sense_keep_nobody_else_waiting(records, settings, trained, gain):
    gain()
    mine = records.get_submission("mine").dump()
    for name, odd in (("odd", {"forward": "nonsense"}), ("odder", {"data": {"name": 5}})):
        records.put_stored(settings.submissions_table, {**mine, "submission_id": name, **odd})
    assert [each["conf"]["replay"] for each in want()] == ["mine/i5"]


def test_a_run_that_fails_is_told_with_the_models(records, store, settings, trained, gain):
    gain()
    (wanted,) = want()
    run_id, conf = wanted["trigger_run_id"], wanted["conf"]
    register(run_id, **conf)
    context = build_context(run_id, **conf)
    steps.accept_submission(**context)
    steps.PlanOperator(task_id="plan").execute(context)
    change_fields(
        records, run_id, "i5", status="error", outcome="failed(user)", reason="no command 'score'"
    )
    with pytest.raises(AirflowFailException, match="error: i5"):
        steps.evaluate_submission(**context)
    (score,) = records.get_submission("mine").forward
    assert score.reason.startswith(f"its run {run_id} failed: i5: ")
    assert "no command 'score'" in score.reason
    assert want() == []


def test_a_run_that_is_refused_is_told_with_the_models(records, store, settings, trained, gain):
    gain()
    (wanted,) = want()
    change_fields(records, "mine", "i5", files=[])
    with pytest.raises(AirflowFailException, match="has left no result"):
        register(wanted["trigger_run_id"], **wanted["conf"])
    (score,) = records.get_submission("mine").forward
    assert "has left no result.json" in score.reason


def test_models_that_were_trained_anew_meanwhile_have_no_score_yet(
    records, store, settings, trained, gain
):
    gain()
    (wanted,) = want()
    run_id, conf = wanted["trigger_run_id"], wanted["conf"]
    context = build_context(run_id, **conf)
    register(run_id, **conf)
    steps.accept_submission(**context)
    steps.PlanOperator(task_id="plan").execute(context)
    said = {"result.json": b"{}", "predictions.csv": write_predictions(NEW)}
    leave(records, store, settings, run_id, said)
    CollectOperator(task_id="collect", interval=INTERVAL).publish(context)
    change_fields(records, "mine", "i5", fence=9)
    steps.evaluate_submission(**context)
    assert records.get_submission("mine").forward[0].is_open
    # The models of now are another matter, and wanted anew.
    (again,) = want()
    assert again["trigger_run_id"] != run_id


def test_models_that_are_not_those_that_were_published_are_refused(
    records, store, settings, trained, gain
):
    gain()
    files = [each.dump() for each in records.get_task("mine", "i5").newest.files]
    for each in files:
        if each["path"] == "models/long.h5":
            each["sha256"] = "0" * 64
    change_fields(records, "mine", "i5", files=files)
    (wanted,) = want()
    with pytest.raises(AirflowFailException, match=r"long\.h5 of mine/i5 is not there as it was"):
        register(wanted["trigger_run_id"], **wanted["conf"])


def test_one_look_wants_a_bounded_number(records, store, settings, trained, gain):
    gain()
    for number in range(3):
        copy = records.get_submission("mine").dump() | {"submission_id": f"more-{number}"}
        records.create_submission(type(records.get_submission("mine")).load(copy))
        task = records.get_task("mine", "i5").dump() | {"submission_id": f"more-{number}"}
        records.create_task(type(records.get_task("mine", "i5")).load(task))
    data = DataStore(records, settings.events_table)
    assert len(want_scores(records, data, LATER, most=2)) == 2
    assert len(want_scores(records, data, LATER, most=10)) == 4
    # What comes to no end keeps nobody waiting for ever.
    assert want_scores(records, data, LATER + dt.timedelta(days=8)) == []
    assert "came to no end in 7 days" in records.get_submission("mine").forward[0].reason


def test_the_judge_that_cannot_run_says_so(records, store, settings, trained, gain, tmp_path):
    gain()
    (wanted,) = want()
    vars(settings)["judge_python"] = tmp_path / "none"
    run(records, store, settings, wanted)
    (score,) = records.get_submission("mine").forward
    assert score.reason.startswith("the judge could not run (")


def test_a_data_set_with_one_version_costs_no_look_at_submissions(records, trained, monkeypatch):
    monkeypatch.setattr(records, "list_submissions", None)
    assert want() == []
