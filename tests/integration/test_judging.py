"""What a training has left is judged where it is published, by a process of its own."""

from __future__ import annotations

import hashlib
import json
import secrets
import stat
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from fakes.judged_trainings import write_training
from fakes.renting import Clients
from fakes.stores import FakeObjectStore, FakeRecordStore
from fakes.submissions import build_submission
from fakes.tasks import change_fields, with_fields
from touchstone.core import attempts
from touchstone.core.judging import RULES
from touchstone.core.names import build_output_key
from touchstone.core.results import judge_submission
from touchstone.core.tasks import TaskSpec
from touchstone.hooks import mlflow
from touchstone.operators.collect import CollectOperator
from touchstone.settings import Settings
from touchstone.stores import objects, records
from touchstone.stores.parts import Parts, read_published, read_series
from touchstone_agent.protocol.messages import AttemptRef, Limits

pytestmark = pytest.mark.integration

NOW = datetime(2026, 11, 22, tzinfo=UTC)
REF = AttemptRef(submission_id="s-1", task_id="i5", attempt=1, fence=1)
MODELS = {"models/long.h5": b"long", "models/short.h5": b"short"}


class FakeMlflow:
    """Notes what is published."""

    published: list[dict]

    def __init__(self, settings=None):
        pass

    def publish(self, *, artifacts, **facts):
        FakeMlflow.published.append(facts)
        return mlflow.PublishedRun(run_id="r", url="http://m/r", artifact_url="http://m/a?path=")


class World:
    """
    A training whose files are there, about to be collected.

    :param store: Where its files are.
    :param settings: Names of the installation.
    """

    def __init__(self, store, settings, schedule=None):
        self.store, self.settings = store, settings
        self.parts = Parts(store, settings.content_bucket)
        spec = TaskSpec.model_validate(
            {
                "submission_id": "s-1",
                "task_id": "i5",
                "kind": "training",
                "system": "feature_set",
                "image": "trainer",
                "content_sha256": "0" * 64,
                "content_size": 1,
                "limits": Limits(),
                "interval": 5,
                "schedule": schedule or {},
            }
        )
        self.book = FakeRecordStore(settings)
        record = attempts.new_task(spec, run_id="s-1", map_index=0, now=NOW)
        record = attempts.claim_attempt(
            record,
            attempt=1,
            server="local",
            container_of=lambda ref: ref.container_name("dev"),
            now=NOW,
        )
        self.book.create_submission(build_submission("s-1", run_ids=["s-1"], status="running"))
        self.book.create_task(with_fields(record, status="uploading", uploaded_at=NOW.isoformat()))

    def leave(self, files):
        entries = []
        for path, body in (MODELS | files).items():
            self.store.put_new(self.settings.content_bucket, build_output_key(REF, path), body)
            digest = hashlib.sha256(body).hexdigest()
            entries.append({"path": path, "sha256": digest, "size": len(body)})
        change_fields(self.book, "s-1", "i5", files=entries)

    def collect(self):
        """Collect; return what was published, with all its figures, and its evaluations."""
        run = SimpleNamespace(run_id="s-1", conf={}, triggering_user_name="ann")
        context = {"dag_run": run, "ti": SimpleNamespace(map_index=0)}
        CollectOperator(task_id="collect", interval=5).publish(context)
        task = self.book.get_task("s-1", "i5")
        assert task.status == "success"
        assert len(task.newest.published.models) == 2
        published = read_published(task, self.parts)
        return published, self.book.list_evaluations("s-1")

    def end(self):
        task = self.book.get_task("s-1", "i5")
        return judge_submission([(task, read_published(task, self.parts))])


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("honest")
    result = write_training(folder)
    return result, (folder / "predictions.csv").read_bytes()


@pytest.fixture
def settings():
    return Settings(env=f"t{secrets.token_hex(4)}")


@pytest.fixture
def store(ministack, settings):
    found = objects.ObjectStore(Clients.connect(ministack).s3)
    for bucket in (settings.content_bucket, settings.models_bucket):
        found._client.create_bucket(Bucket=bucket)
    return found


@pytest.fixture
def build(monkeypatch, settings):
    FakeMlflow.published = []
    monkeypatch.setattr(mlflow, "MlflowHook", FakeMlflow)

    def build(store, settings=settings, schedule=None):
        world = World(store, settings, schedule)
        monkeypatch.setattr(objects.ObjectStore, "connect", lambda _: store)
        monkeypatch.setattr(records.RecordStore, "connect", lambda _: world.book)
        for module in ("collect", "authority"):
            monkeypatch.setattr(f"touchstone.operators.{module}.get_settings", lambda: settings)
        return world

    return build


def pack(result, predictions):
    files = {"result.json": json.dumps(result).encode()}
    return files if predictions is None else files | {"predictions.csv": predictions}


def test_an_honest_training_gets_the_judges_figures_and_its_rows_are_kept(build, store, honest):
    result, predictions = honest
    world = build(store)
    world.leave(pack(result, predictions))

    published, evaluations = world.collect()

    judged = published.judged
    assert (judged.status, judged.reason, judged.rows) == ("judged", None, 1253)
    assert judged.first == datetime(2014, 1, 2, tzinfo=UTC)
    assert judged.last == datetime(2018, 12, 21, tzinfo=UTC)
    assert judged.rules.sha256 == RULES.sha256
    assert published.metrics == judged.metrics
    assert published.claimed == {}
    for name, value in result["metrics"].items():
        if name not in {"net_sharpe_low", "net_sharpe_high"}:
            assert published.metrics[name] == pytest.approx(value, rel=1e-9, abs=1e-9)
    assert judged.series.key.startswith("records/judged/s-1/i5/1-1/")
    series = read_series(world.parts, judged)
    assert (len(series.net), series.time[0]) == (1253, "2014-01-02T00:00:00+00:00")
    assert {row.judged for row in evaluations} == {"judged"}
    assert {row.metrics["net_sharpe"] for row in evaluations} == {judged.metrics["net_sharpe"]}
    (run,) = FakeMlflow.published
    assert run["metrics"]["net_sharpe"] == judged.metrics["net_sharpe"]
    assert run["tags"]["judged"] == "judged"
    end = world.end()
    assert end.score == judged.metrics["net_sharpe"]
    assert end.results[0].judged == "judged"


def test_judging_twice_finds_the_same_and_stores_it_once(build, store, honest):
    world = build(store)
    world.leave(pack(*honest))

    first, _ = world.collect()
    second, _ = world.collect()

    assert first.judged == second.judged
    assert len(world.store.list(world.settings.content_bucket, "records/judged/")) == 1


def forge(name, value):
    def change(result, predictions):
        return result | {"metrics": result["metrics"] | {name: value}}, predictions

    return change


def set_param(name, value):
    def change(result, predictions):
        return result | {"params": result["params"] | {name: value}}, predictions

    return change


def change_predictions(old, new):
    return lambda result, predictions: (result, predictions.replace(old, new))


REFUSED = {
    "a score out of the air": (forge("net_sharpe", 12.0), "net_sharpe: result.json says 12.0, "),
    "another test window": (
        set_param("split.test_from", "2017-01-01"),
        "other rows (split.test_from is 2017-01-01, the rules say 2014-01-01)",
    ),
    "no cost": (
        set_param("backtest.cost_bps", 0.0),
        "other rules (backtest.cost_bps is 0.0, the rules say 1.0)",
    ),
    "a tenth of a year": (
        set_param("backtest.bars_per_year", 25200),
        "other rules (backtest.bars_per_year is 25200, the rules say 252)",
    ),
    "no predictions": (lambda result, _: (result, None), "predictions.csv: the training has left"),
    "empty predictions": (lambda result, _: (result, b""), "predictions.csv: has the columns "),
    "a picture": (lambda result, _: (result, b"\x89PNG" * 99), "predictions.csv: is no plain text"),
    "a day that is missing": (
        change_predictions(b"2014-01-02T", b"2014-01-04T"),
        "other rows (predictions.csv: 2014-01-04 is none of them)",
    ),
    "contract 1": (
        lambda result, predictions: (result | {"contract": 1}, predictions),
        "the image speaks contract 1, whose predictions cannot be recomputed",
    ),
}


@pytest.mark.parametrize(("change", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_judged_is_published_as_a_claim_with_the_reason(build, honest, change, reason):
    world = build(FakeObjectStore())
    result, predictions = change(*honest)
    world.leave(pack(result, predictions))

    published, evaluations = world.collect()

    assert published.judged.status == "not judged"
    assert published.judged.reason.startswith(reason)
    assert (published.metrics, published.claimed) == ({}, result["metrics"])
    for row in evaluations:
        assert (row.judged, row.metrics) == ("not judged", {})
        assert row.judged_reason.startswith(reason)
        assert row.claimed == result["metrics"]
    (run,) = FakeMlflow.published
    assert run["metrics"]["claimed.net_sharpe"] == result["metrics"]["net_sharpe"]
    assert "net_sharpe" not in run["metrics"]
    assert run["tags"]["judged.reason"] == published.judged.reason
    end = world.end()
    assert (end.status, end.score, end.verdict) == ("success", None, "not judged")
    assert end.verdict_reason.startswith(f"i5: {reason}")


ASKED = {
    "the data's end": ({"fetched_data_end_to": "2014-05-01"}, "fetched_data_end_to is 2014-05-01"),
    "an override": ({"config_overrides": ["split.test_to=2015-01-01"]}, "split.test_to is 2015-"),
    "a passthrough": (
        {"passthrough_args": ["--config_override backtest.cost_bps=0"]},
        "backtest.cost_bps is 0, the rules say 1.0",
    ),
}


@pytest.mark.parametrize(("schedule", "reason"), ASKED.values(), ids=ASKED)
def test_what_was_asked_for_counts_whatever_the_result_says(build, honest, schedule, reason):
    world = build(FakeObjectStore(), schedule=schedule)
    world.leave(pack(*honest))

    published, _ = world.collect()

    assert published.judged.reason.startswith("other ")
    assert reason in published.judged.reason


def test_settings_that_say_what_the_rules_say_are_judged(build, honest):
    schedule = {
        "config_overrides": [
            "backtest.cost_bps=1",
            "split.test_from='2014-01-01'",
            "backtest.n_resamples=200",
        ],
        "passthrough_args": ["--epochs 3"],
    }
    world = build(FakeObjectStore(), schedule=schedule)
    world.leave(pack(*honest))

    assert world.collect()[0].judged.is_judged


def write_program(folder: Path, text: str) -> Path:
    path = folder / f"judge-{secrets.token_hex(4)}"
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


BROKEN = {
    "is not there": (None, "its environment is not there"),
    "crashes": (
        "#!/bin/sh\necho 'ValueError: oh' >&2\nexit 1\n",
        "it ended with code 1: ValueError",
    ),
    "says nothing": ("#!/bin/sh\nexit 0\n", "its answer makes no sense"),
    "says nonsense": ("#!/bin/sh\necho '{\"judged\": true}'\n", "its answer makes no sense"),
    "is killed": ("#!/bin/sh\nkill -9 $$\n", "it was ended by SIGKILL"),
}


@pytest.mark.parametrize(("program", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_judge_that_cannot_run_loses_no_training_and_is_asked_again(
    build, settings, honest, tmp_path, program, reason
):
    python = tmp_path / "none" if program is None else write_program(tmp_path, program)
    store = FakeObjectStore()
    world = build(store, settings.model_copy(update={"judge_python": python}))
    world.leave(pack(*honest))

    published, _ = world.collect()

    assert published.judged.status == "not judged"
    assert published.judged.reason.startswith(f"the judge could not run ({reason}")
    assert published.claimed["net_sharpe"] == honest[0]["metrics"]["net_sharpe"]

    # Mended, and `collect` cleared.
    mended = build(store)
    mended.book = world.book
    assert mended.collect()[0].judged.is_judged
    assert {row.judged for row in mended.book.list_evaluations("s-1")} == {"judged"}

    # A judge that breaks later takes nothing back.
    broken = build(store, settings.model_copy(update={"judge_python": python}))
    broken.book = world.book
    assert broken.collect()[0].judged.is_judged


def test_the_judge_is_told_nothing_of_this_machine(build, settings, honest, tmp_path, monkeypatch):
    """It gets no credential, and no address of a store."""
    told = tmp_path / "told"
    program = f"#!/bin/sh\nenv > {told}\npwd >> {told}\nexit 1\n"
    monkeypatch.setenv("AIRFLOW_CONN_TOUCHSTONE_AWS", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    python = write_program(tmp_path, program)
    world = build(FakeObjectStore(), settings.model_copy(update={"judge_python": python}))
    world.leave(pack(*honest))

    world.collect()

    names = {line.partition("=")[0] for line in told.read_text().splitlines()}
    assert names <= {"PATH", "LC_ALL", "OPENBLAS_NUM_THREADS", "PWD", "SHLVL", "_", "OLDPWD", "/"}
