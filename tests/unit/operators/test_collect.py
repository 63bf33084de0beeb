"""What a training has left is checked once more where it is published."""

from __future__ import annotations

import contextlib
import hashlib
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowFailException

from fakes.data_sets import add
from fakes.stores import FakeObjectStore, FakeRecordStore
from fakes.submissions import build_submission
from fakes.tasks import change_fields, store_task, with_fields
from touchstone.core import attempts
from touchstone.core.data_sets import PinnedData
from touchstone.core.events import parse_event
from touchstone.core.folds import Fold
from touchstone.core.judging import CONTRACT_1, JudgeAnswer
from touchstone.core.names import build_data_key, build_model_key, build_output_key
from touchstone.core.records.events import EventRecord
from touchstone.core.results import RESULT_BYTES
from touchstone.core.schedule import Training
from touchstone.core.tasks import TaskSpec
from touchstone.hooks import mlflow
from touchstone.operators.collect import CollectOperator, publish_attempt, read_files
from touchstone.settings import Settings
from touchstone.stores import objects, tables
from touchstone.stores import records as record_store
from touchstone.stores.parts import Parts, read_published
from touchstone_agent.protocol.messages import AttemptRef, Limits

NOW = datetime(2026, 11, 22, tzinfo=UTC)
REF = AttemptRef(submission_id="s-1", task_id="i5", attempt=1, fence=1)
SETTINGS = Settings(env="dev")
MODELS = {"models/long.h5": b"long", "models/short.h5": b"short"}
RESULT = {
    "contract": 1,
    "submission_id": "s-1",
    "task_id": "i5",
    "prediction_interval": 5,
    "metrics": {"net_sharpe": 0.5},
    "seed": 7,
    "files": [{"path": path} for path in MODELS],
}


class FakeMlflow:
    """Notes what is published, and the files as they were."""

    published: list[dict]

    def __init__(self, settings=None):
        pass

    def publish(self, *, artifacts, **facts):
        files = sorted(path for path in artifacts.rglob("*") if path.is_file())
        facts["files"] = {str(path.relative_to(artifacts)): path.read_bytes() for path in files}
        FakeMlflow.published.append(facts)
        return mlflow.PublishedRun(run_id="r", url="http://m/r", artifact_url="http://m/a?path=")


@pytest.fixture
def store():
    return FakeObjectStore()


@pytest.fixture
def book():
    spec = TaskSpec(
        submission_id="s-1",
        task_id="i5",
        kind="training",
        system="feature_set",
        image="trainer",
        content_sha256="0" * 64,
        content_size=1,
        limits=Limits(),
        interval=5,
        schedule=Training(seed=7),
    )
    store = FakeRecordStore(SETTINGS)
    record = attempts.new_task(spec, run_id="s-1", map_index=0, now=NOW)
    record = attempts.claim_attempt(
        record,
        attempt=1,
        server="local",
        container_of=lambda ref: ref.container_name("dev"),
        now=NOW,
    )
    store.create_submission(build_submission("s-1", run_ids=["s-1"], status="running"))
    store.create_task(with_fields(record, status="uploading", uploaded_at=NOW.isoformat()))
    return store


@pytest.fixture(autouse=True)
def parts(store, book, monkeypatch):
    FakeMlflow.published = []
    monkeypatch.setattr(mlflow, "MlflowHook", FakeMlflow)
    monkeypatch.setattr(objects.ObjectStore, "connect", lambda _: store)
    monkeypatch.setattr(record_store.RecordStore, "connect", lambda _: book)
    for module in ("collect", "authority"):
        monkeypatch.setattr(f"touchstone.operators.{module}.get_settings", lambda: SETTINGS)


@pytest.fixture
def leave(store, book):
    """Store files as a pod or an agent does, and put them on record; return the record."""

    def leave(result=None, *, listed=None, **files):
        found = {"result.json": json.dumps(result or RESULT).encode(), **MODELS, **files}
        entries = []
        for path, body in found.items():
            store.put_new(SETTINGS.content_bucket, build_output_key(REF, path), body)
            digest = hashlib.sha256(body).hexdigest()
            entries.append({"path": path, "sha256": digest, "size": len(body)})
        change = {"files": entries if listed is None else listed}
        return change_fields(book, "s-1", "i5", **change)

    return leave


def collect(book):
    run = SimpleNamespace(run_id="s-1", conf={}, triggering_user_name="ann")
    context = {"dag_run": run, "ti": SimpleNamespace(map_index=0)}
    CollectOperator(task_id="collect", interval=5).publish(context)
    return book.get_task("s-1", "i5")


def test_what_was_left_is_published_once(leave, store, book):
    leave(**{"charts/equity curve?.png": b"png", "console.log": b"x"})

    task = collect(book)
    again = collect(book)

    assert task.status == "success"
    assert [model.key for model in task.newest.published.models] == [
        build_model_key(REF, "long"),
        build_model_key(REF, "short"),
    ]
    assert store.get(SETTINGS.models_bucket, build_model_key(REF, "long")) == b"long"
    published = read_published(task, Parts(store, SETTINGS.content_bucket))
    assert [chart.dump() for chart in published.charts] == [
        {
            "name": "equity curve?",
            "url": "http://m/a?path=reported/charts/equity%20curve%3F.png",
            "by": "trainer",
        }
    ]
    assert "charts/equity curve?.png" not in FakeMlflow.published[0]["files"]
    assert published.charts_note == "the training is not judged"
    first, second = FakeMlflow.published
    assert first == second
    assert first["files"]["models/short.h5"] == b"short"
    assert first["metrics"] == {"reported.net_sharpe": 0.5}, "contract 1 is not judged"
    assert again.newest.published.models == task.newest.published.models
    assert len(book.list_evaluations("s-1")) == 2


@pytest.mark.parametrize(
    "path",
    ["/{home}/.bashrc", "../../{home}/.bashrc", "a/../../x", "models//long.h5", "a\\b", "a\nb", ""],
)
def test_no_file_on_record_is_written_anywhere_else(leave, book, tmp_path, monkeypatch, path):
    """A pod's word with an absolute path made the worker write a file anywhere it may."""
    monkeypatch.chdir(tmp_path)
    evil = {"path": path.format(home=str(tmp_path).strip("/")), "sha256": "0" * 64, "size": 1}
    record = leave()
    files = [file.dump() for file in record.newest.files]
    change_fields(book, "s-1", "i5", files=[*files, evil])

    with pytest.raises(AirflowFailException, match=r"the attempt's files: 3\.path: "):
        collect(book)

    assert list(tmp_path.iterdir()) == []
    task = book.get_task("s-1", "i5")
    assert (task.newest.outcome, task.newest.failure_class) == ("failed(infrastructure)", "collect")
    assert FakeMlflow.published == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seed": 10**30}, "result.json: holds an integer of 31 characters"),
        ({"seed": "x"}, "result.json: seed: "),
        ({"params": {"a": []}}, "result.json: params.a: "),
        ({"predictions_sha256": "x"}, "result.json: predictions_sha256: "),
        ({"prediction_interval": 20}, "result.json: prediction_interval: is 20"),
        ({"metrics": {"x": "y"}}, "result.json: metric 'x'"),
        ({"pad": "x" * RESULT_BYTES}, "result.json: has more than"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_result_with_odd_values_fails_by_its_fields_name(leave, store, book, changes, reason):
    leave(RESULT | changes)

    with pytest.raises(AirflowFailException):
        collect(book)

    task = book.get_task("s-1", "i5")
    assert (task.newest.outcome, task.newest.failure_class) == ("failed(user)", "contract")
    assert task.newest.reason.startswith(reason)
    assert not store.list(SETTINGS.models_bucket, ""), "nothing is published of it"


@pytest.mark.parametrize("path", ["result.json", "models/short.h5"])
def test_a_training_that_has_left_no_result_or_model_broke_the_contract(leave, book, path):
    record = leave()
    kept = [file.dump() for file in record.newest.files if file.path != path]
    change_fields(book, "s-1", "i5", files=kept)

    with pytest.raises(AirflowFailException, match=f"{path}: the training has left none"):
        collect(book)

    assert book.get_task("s-1", "i5").newest.failure_class == "contract"


def test_what_was_said_to_be_uploaded_and_is_not_there_is_no_fault_of_the_trainings(
    leave, store, book
):
    leave()
    del store.objects[SETTINGS.content_bucket, build_output_key(REF, "models/long.h5")]

    with pytest.raises(AirflowFailException, match="there is no s3"):
        collect(book)

    assert book.get_task("s-1", "i5").newest.outcome == "failed(infrastructure)"


def test_a_newer_attempt_is_not_failed_for_an_older_ones_files(leave, store, book, monkeypatch):
    leave()

    def fetch(*_, **__):
        # Meanwhile somebody has cleared the training, and it runs again.
        change_fields(book, "s-1", "i5", fence=2, status="queued")
        raise objects.ObjectCorrupt("it is another one")

    monkeypatch.setattr(store, "fetch", fetch)
    with pytest.raises(AirflowFailException, match="it is another one"):
        collect(book)

    assert book.get_task("s-1", "i5").status == "queued"


def test_what_no_record_can_hold_ends_with_a_reason(leave, book, monkeypatch):
    leave(RESULT | {"metrics": {f"{'m' * 150}{n}": 1 for n in range(200)}})
    # Earlier attempts have filled the record nearly up to its limit.
    for room in range(tables.MAX_RECORD_BYTES, 0, -100):
        filling = [{"fence": 0, "reason": "x" * room}]
        with contextlib.suppress(tables.RecordUnfit):
            change_fields(book, "s-1", "i5", attempts=filling, pad="x" * 500)
            break
    change_fields(book, "s-1", "i5", pad=None)

    with pytest.raises(AirflowFailException, match="is more than the"):
        collect(book)

    task = book.get_task("s-1", "i5")
    assert (task.status, task.newest.failure_class) == ("error", "contract")


def test_files_of_a_record_from_before_are_read_as_they_are(leave, tmp_path: Path, store):
    record = leave()
    stored = [file.dump() | {"etag": "x"} for file in record.newest.files]
    record = with_fields(record, files=stored)

    published, _ = publish_attempt(store, record, read_files(record.newest.files))

    assert published.models


def test_nothing_of_a_trainers_takes_the_place_of_the_judges(leave, book):
    """Whatever it is called: what stands where the judge's own would is the trainer's claim."""
    leave(
        **{
            "charts/equity.svg": b"forged",
            "charts/figures.json": b"forged",
            "returns.csv": b"forged",
            "reported/charts/equity.svg": b"twice",
            "reported/returns.csv": b"twice",
            "chartsy": b"other",
        }
    )

    task = collect(book)

    (run,) = FakeMlflow.published
    names = [name for name in run["files"] if not name.startswith("models/")]
    assert sorted(names) == [
        "chartsy",
        "reported/charts/equity.svg",
        "reported/charts/figures.json",
        "reported/reported/charts/equity.svg",
        "reported/reported/returns.csv",
        "reported/returns.csv",
        "result.json",
    ]
    assert run["files"]["reported/charts/equity.svg"] == b"forged"
    assert task.newest.published.charts_note == "the training is not judged"


def test_a_file_that_is_called_as_the_folder_of_reports_is_in_nobodys_way(leave, book):
    leave(**{"reported": b"x", "returns.csv": b"y"})

    collect(book)

    assert FakeMlflow.published[0]["files"]["reported/reported"] == b"x"


# --- what an event holds back --------------------------------------------------------------------


def close_rows(book, *, closed_at=None):
    """Put an event on record whose rows are told of after its closing, and the schedule in it."""
    text = 'schema_version = 1\ntitle = "t"\n[rows]\nclosed_from = 2016-01-01\n'
    event = EventRecord(
        entry="winter",
        definition=parse_event(text, name="winter"),
        digest="0",
        version=1,
        closed_at=closed_at,
    )
    book.put_stored(SETTINGS.events_table, event.dump())
    schedule = {"intervals": [5], "event": "winter"}
    book.change_submission(
        "s-1", lambda found: found.change(schedule=schedule, schedule_run_id="s-1")
    )


def test_while_an_event_holds_back_nothing_of_the_rows_is_published(leave, book):
    close_rows(book)
    leave(
        **{
            "charts/equity.png": b"png",
            "returns.csv": b"r",
            "predictions.csv": b"p",
            "effective_config.json": b"{}",
        }
    )

    task = collect(book)

    (run,) = FakeMlflow.published
    assert sorted(run["files"]) == ["effective_config.json", "models/long.h5", "models/short.h5"]
    assert run["metrics"] == {}
    assert run["tags"]["held_back"] == "winter"
    published = task.newest.published
    assert (published.held_back, list(published.charts)) == ("winter", [])


def test_after_the_closing_a_cleared_collect_publishes_all(leave, book):
    close_rows(book)
    leave(**{"charts/equity.png": b"png"})
    collect(book)
    close_rows(book, closed_at=NOW)

    task = collect(book)

    _, second = FakeMlflow.published
    assert "held_back" not in second["tags"]
    assert second["metrics"] == {"reported.net_sharpe": 0.5}
    assert "reported/charts/equity.png" in second["files"]
    assert task.newest.published.held_back is None


def test_an_event_that_makes_no_sense_holds_back(leave, book):
    close_rows(book)
    odd = {"event": "#events", "entry": "winter", "definition": 5, "version": 2}
    book.put_stored(SETTINGS.events_table, odd)
    leave()

    assert collect(book).newest.published.held_back == "winter"


# --- the device, and what the GPU was good for --------------------------------------------------

DEVICE = {"platform": "gpu", "name": "NVIDIA L4", "driver": "550.54", "determinism": "L4 550.54"}


def hold_gpu(book, utilisation, **placement):
    """Let the attempt have held a GPU for an hour."""
    facts = {
        "gpus": 1,
        "image": "trainer:cuda",
        "image_digest": "sha256:12",
        "placement": {"gpus": 1, **placement},
        "intent_at": NOW.isoformat(),
        "exited_at": (NOW + timedelta(hours=1)).isoformat(),
        "verdict": {"usage": {"gpu": {"mean_utilisation_percent": utilisation}}},
    }
    change_fields(book, "s-1", "i5", **facts)


@pytest.fixture
def own(book, store, tmp_path, monkeypatch):
    """A training of contract 2 on a data set of its own, and what the judge was asked."""
    settings = SETTINGS.model_copy(update={"data_cache": tmp_path / "cache"})
    monkeypatch.setattr("touchstone.operators.collect.get_settings", lambda: settings)
    record = add(book, store, settings, tmp_path / "set")
    data = PinnedData(
        name=record.name,
        version=record.definition.version,
        digest=record.digest,
        sha256=record.sha256,
        size=record.size,
        validation_from=date(2017, 10, 1),
        test_from=date(2017, 12, 1),
        bars_per_year=6240,
    )
    spec = book.get_task("s-1", "i5").spec.model_copy(update={"data": data})
    change_fields(book, "s-1", "i5", config=spec.model_dump(mode="json"))
    asked = []

    def ask(python, folder, rules, interval, *, data_dir):
        asked.append((rules, sorted(path.name for path in data_dir.iterdir())))
        return JudgeAnswer(judged=False, reason="other rows (as told)")

    monkeypatch.setattr("touchstone.confined.judging.ask_judge", ask)
    return SimpleNamespace(data=data, asked=asked)


TWO = RESULT | {"contract": 2}


def test_a_training_on_a_data_set_is_judged_by_its_rules_and_files(leave, book, own):
    leave(TWO)

    judged = collect(book).newest.published.judged

    ((rules, files),) = own.asked
    assert files == ["data.toml", "eurusd.csv"]
    assert (rules.data_name, rules.data_sha256) == ("eurusd-hourly 2018-02", own.data.digest)
    assert (rules.test_from, rules.bars_per_year) == (date(2017, 12, 1), 6240)
    assert (judged.reason, judged.rules.sha256) == ("other rows (as told)", rules.sha256)


def test_a_data_set_that_is_gone_judges_nothing_and_the_training_is_published(
    leave, book, own, store
):
    leave(TWO)
    del store.objects[SETTINGS.content_bucket, build_data_key(own.data.sha256)]

    task = collect(book)

    assert (task.status, own.asked) == ("success", [])
    reason = task.newest.published.judged.reason
    assert reason.startswith("the judge could not run (the data set eurusd-hourly 2018-02: there")


def plan_seeds(book, count):
    spec = book.get_task("s-1", "i5").spec
    schedule = spec.schedule.model_copy(update={"seed_count": count})
    spec = spec.model_copy(update={"schedule": schedule})
    change_fields(book, "s-1", "i5", config=spec.model_dump(mode="json"))


def test_all_models_of_several_seeds_are_published_under_stable_names(leave, store, book):
    plan_seeds(book, 2)
    further = {"models/long-2.h5": b"long2", "models/short-2.h5": b"short2"}
    listed = [{"path": path} for path in (*MODELS, *further)]
    leave(RESULT | {"seed_count": 2, "files": listed}, **further)

    task = collect(book)

    models = task.newest.published.models
    told = [(each.strategy, each.name, each.seed) for each in models]
    assert told == [
        ("long", "long", 7),
        ("short", "short", 7),
        ("long", "long-2", 8),
        ("short", "short-2", 8),
    ]
    assert store.get(SETTINGS.models_bucket, build_model_key(REF, "long-2")) == b"long2"
    rows = {row.model_id: row for row in book.list_evaluations("s-1")}
    assert set(rows) == {f"s-1/i5/{name}" for _, name, _ in told}
    assert (rows["s-1/i5/short-2"].seed, rows["s-1/i5/short-2"].seed_count) == (8, 2)
    assert FakeMlflow.published[0]["params"]["seed_count"] == "2"
    assert FakeMlflow.published[0]["files"]["models/short-2.h5"] == b"short2"


def test_a_model_of_a_further_seed_that_is_missing_broke_the_contract(leave, book):
    plan_seeds(book, 2)
    listed = [{"path": f"models/{name}.h5"} for name in ("long", "short", "long-2", "short-2")]
    leave(RESULT | {"seed_count": 2, "files": listed})

    with pytest.raises(
        AirflowFailException, match=r"models/long-2\.h5: the training has left none"
    ):
        collect(book)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "other seeds (seed_count is 1, the schedule says 3)"),
        ({"seed": 8}, "other seeds (seed is 8, the schedule says 7)"),
    ],
)
def test_a_training_of_other_seeds_than_its_schedule_is_published_and_not_judged(
    leave, book, own, changes, reason
):
    plan_seeds(book, 3)
    leave(TWO | changes)

    task = collect(book)

    assert (task.status, own.asked) == ("success", [])
    assert task.newest.published.judged.reason == reason


def test_an_override_of_an_events_rows_is_not_judged(leave, book, own):
    spec = book.get_task("s-1", "i5").spec
    schedule = spec.schedule.model_copy(
        update={"config_overrides": ("split.validation_from=2017-11-01",)}
    )
    spec = spec.model_copy(update={"schedule": schedule})
    change_fields(book, "s-1", "i5", config=spec.model_dump(mode="json"))
    leave(TWO)

    assert collect(book).newest.published.judged.reason == (
        "other rows (split.validation_from is 2017-11-01, the rules say 2017-10-01)"
    )
    assert own.asked == []


def test_the_device_is_named_wherever_results_are(leave, book):
    leave(RESULT | {"device": DEVICE})
    hold_gpu(book, 40, gpu_price_per_hour=0.5)

    task = collect(book)

    assert task.newest.published.device == DEVICE
    assert {json.dumps(row.device) for row in book.list_evaluations("s-1")} == {json.dumps(DEVICE)}
    (run,) = FakeMlflow.published
    assert run["tags"] == {
        "server": "local",
        "container": "touchstone-dev-s-1-i5-1-1",
        "image": "trainer:cuda",
        "image_digest": "sha256:12",
        "device": "on NVIDIA L4 (driver 550.54)",
        "judged": "not judged",
        "judged.reason": CONTRACT_1,
        "judged.charts": "none: the training is not judged",
        **{f"device.{name}": value for name, value in DEVICE.items()},
    }


def test_what_a_useful_hour_has_cost_is_published_with_the_results(leave, book):
    leave()
    hold_gpu(book, 40, gpu_price_per_hour=0.5)

    published = collect(book).newest.published

    assert (published.gpu["held_hours"], published.gpu["useful_hours"]) == (1, 0.4)
    assert (published.gpu["usd"], published.gpu["usd_per_useful_hour"]) == (
        "0.5000",
        "1.2500",
    )
    (run,) = FakeMlflow.published
    assert run["metrics"] == {
        "reported.net_sharpe": 0.5,
        "touchstone.gpu.held_hours": 1.0,
        "touchstone.gpu.utilisation_percent": 40.0,
        "touchstone.gpu.useful_hours": 0.4,
        "touchstone.gpu.usd": 0.5,
        "touchstone.gpu.usd_per_useful_hour": 1.25,
    }


def test_a_training_on_a_cpu_by_a_trainer_that_tells_no_device_is_published_as_ever(leave, book):
    leave()

    published = collect(book).newest.published

    assert (published.device, published.gpu) == ({}, None)
    (run,) = FakeMlflow.published
    assert run["metrics"] == {"reported.net_sharpe": 0.5}
    assert not any("device" in name for name in run["tags"])


def test_a_training_whose_trainer_waived_more_than_its_submission_is_not_judged(leave, book, own):
    leave(TWO | {"waived_columns": ["target"]})

    task = collect(book)

    assert (task.status, own.asked) == ("success", [])
    reason = task.newest.published.judged.reason
    assert reason == "other checks (the column 'target' was waived, and not by the submission)"


def test_a_training_with_the_waivers_of_its_submission_is_judged_and_mlflow_tells_them(
    leave, book, own
):
    spec = book.get_task("s-1", "i5").spec.model_copy(update={"waived_columns": ("target", "x")})
    change_fields(book, "s-1", "i5", config=spec.model_dump(mode="json"))
    leave(TWO | {"waived_columns": ["target"]})

    collect(book)

    assert len(own.asked) == 1
    assert FakeMlflow.published[0]["params"]["waived_columns"] == "'target', 'x'"


@pytest.mark.parametrize("told", ["target", ["x" * 101], ["a"] * 21, [7], ["a\x1b"]])
def test_a_list_of_waived_columns_that_makes_no_sense_broke_the_contract(leave, book, told):
    leave(TWO | {"waived_columns": told})

    with pytest.raises(AirflowFailException, match=r"result\.json: waived_columns"):
        collect(book)


def test_a_fold_is_judged_on_its_own_rows_and_published_under_its_own_name(
    store, book, monkeypatch
):
    fold = Fold(
        number=1,
        count=3,
        validation_from=date(2007, 1, 1),
        test_from=date(2008, 1, 1),
        test_to=date(2010, 12, 31),
    )
    ref = REF.model_copy(update={"task_id": "i5-f1"})
    spec = book.get_task("s-1", "i5").spec.model_copy(update={"task_id": "i5-f1", "fold": fold})
    files = []
    left = {**MODELS, "result.json": json.dumps(TWO | {"task_id": "i5-f1"}).encode()}
    for path, body in left.items():
        store.put_new(SETTINGS.content_bucket, build_output_key(ref, path), body)
        digest = hashlib.sha256(body).hexdigest()
        files.append({"path": path, "sha256": digest, "size": len(body)})
    fields = {"task_id": "i5-f1", "config": spec.model_dump(mode="json"), "files": files}
    store_task(book, {**book.get_task("s-1", "i5").dump(), **fields})
    asked = []

    def ask(python, folder, rules, interval, *, data_dir):
        asked.append((rules, interval))
        return JudgeAnswer(judged=False, reason="as told")

    monkeypatch.setattr("touchstone.confined.judging.ask_judge", ask)
    run = SimpleNamespace(run_id="s-1", conf={}, triggering_user_name="ann")
    context = {"dag_run": run, "ti": SimpleNamespace(map_index=0)}
    CollectOperator(task_id="collect", interval="5 fold 1").publish(context)

    ((rules, interval),) = asked
    assert interval == 5
    assert (rules.validation_from, rules.test_from) == (fold.validation_from, fold.test_from)
    assert rules.test_to == fold.test_to
    assert book.get_task("s-1", "i5-f1").newest.published.judged.rules.sha256 == rules.sha256
    (published,) = FakeMlflow.published
    assert published["task_key"] == "s-1/i5-f1"
    assert (published["params"]["fold"], published["params"]["fold_count"]) == ("1", "3")
    assert {row.model_id for row in book.list_evaluations("s-1")} == {
        *("s-1/i5-f1/long", "s-1/i5-f1/short"),
    }
