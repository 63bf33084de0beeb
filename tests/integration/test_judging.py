"""What a training has left is judged where it is published, by a process of its own."""

from __future__ import annotations

import csv
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
from touchstone.confined import charts
from touchstone.confined.charts import NotDrawn
from touchstone.confined.judge import find_judge
from touchstone.core import attempts
from touchstone.core.events import parse_event
from touchstone.core.judging import RULES
from touchstone.core.names import build_output_key
from touchstone.core.records.events import EventRecord
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
        files = [path for path in artifacts.rglob("*") if path.is_file()]
        facts["files"] = {str(path.relative_to(artifacts)): path.read_bytes() for path in files}
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
    assert published.reported == {}
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


def test_returns_and_charts_are_the_judges_and_the_trainers_are_reported_only(build, store, honest):
    result, predictions = honest
    world = build(store)
    forged = {"returns.csv": b"time,net\n", "charts/equity.png": b"png"}
    world.leave(pack(result, predictions) | forged)

    published, _ = world.collect()

    (run,) = FakeMlflow.published
    files = run["files"]
    assert run["tags"]["judged.charts"] == "drawn"
    assert (files["reported/returns.csv"], files["reported/charts/equity.png"]) == (
        b"time,net\n",
        b"png",
    )
    lines = list(csv.DictReader(files["returns.csv"].decode().splitlines()))
    series = read_series(world.parts, published.judged)
    assert [line["time"] for line in lines] == list(series.time)
    assert [float(line["net"]) for line in lines] == list(series.net)
    changes, before = [], 0.0
    for line, market in zip(lines, series.market, strict=True):
        assert float(line["gross"]) == pytest.approx(float(line["position"]) * market)
        changes.append(abs(float(line["position"]) - before))
        before = float(line["position"])
        cost = float(line["gross"]) - float(line["net"])
        assert cost == pytest.approx(1e-4 * changes[-1], abs=1e-15)
    assert sum(changes) / len(lines) * 252 == pytest.approx(published.metrics["turnover"])
    names = ("calibration", "drawdown", "equity", "rank_correlation")
    assert [(chart.name, chart.by) for chart in published.charts] == [
        *((name, "judge") for name in names),
        ("equity", "trainer"),
    ]
    assert published.charts[2].url == "http://m/a?path=charts/equity.svg"
    assert b"<svg" in files["charts/equity.svg"]
    figures = json.loads(files["charts/figures.json"])["figures"]
    assert figures["equity"]["value"][-1] - 1 == pytest.approx(published.metrics["total_return"])
    assert published.charts_note is None
    assert world.parts.get_table(published.drawn)["figures"] == figures
    assert series.target is not None


def test_a_judge_that_cannot_draw_loses_nothing_but_the_charts(build, honest, monkeypatch):
    def fail(*_):
        raise NotDrawn("it ended with code 1: no fonts")

    monkeypatch.setattr(charts, "ask_for_charts", fail)
    world = build(FakeObjectStore())
    world.leave(pack(*honest))

    published, evaluations = world.collect()

    assert published.judged.status == "judged"
    assert {row.judged for row in evaluations} == {"judged"}
    assert published.charts_note == "the judge could not draw (it ended with code 1: no fonts)"
    (run,) = FakeMlflow.published
    assert "returns.csv" in run["files"]
    assert not any(path.startswith("charts/") for path in run["files"])
    assert run["tags"]["judged.charts"] == f"none: {published.charts_note}"


def hold_back(world, closed_at=None):
    """Let the training be in an event whose rows are told of after its closing."""
    text = 'schema_version = 1\ntitle = "t"\n[rows]\nclosed_from = 2016-01-01\n'
    event = EventRecord(
        entry="winter",
        definition=parse_event(text, name="winter"),
        digest="0",
        version=1,
        closed_at=closed_at,
    )
    world.book.put_stored(world.settings.events_table, event.dump())
    schedule = {"intervals": [5], "event": "winter"}
    world.book.change_submission(
        "s-1", lambda found: found.change(schedule=schedule, schedule_run_id="s-1")
    )


def test_what_an_event_holds_back_is_judged_and_told_after_its_closing(build, honest):
    world = build(FakeObjectStore())
    hold_back(world)
    world.leave(pack(*honest) | {"returns.csv": b"x"})

    published, _ = world.collect()

    assert published.judged.is_judged
    assert len(read_series(world.parts, published.judged).net) == 1253
    (run,) = FakeMlflow.published
    assert (run["metrics"], sorted(run["files"])) == ({}, ["models/long.h5", "models/short.h5"])
    assert run["tags"]["judged.charts"] == "none: held back until the event is closed"
    assert (world.end().score, world.end().results[0].metrics) == (None, {})
    assert published.drawn is None

    hold_back(world, closed_at=NOW)
    published, _ = world.collect()
    assert {chart.by for chart in published.charts} == {"judge"}
    assert "returns.csv" in FakeMlflow.published[-1]["files"]
    assert world.end().score == published.metrics["net_sharpe"]


def test_a_wrong_figure_is_no_question_that_the_judge_answers(build, honest):
    """A score of closed rows could be learnt by telling a wrong one."""
    result, predictions = honest
    world = build(FakeObjectStore())
    hold_back(world)
    world.leave(pack(*forge("net_sharpe", 12.0)(result, predictions)))

    published, evaluations = world.collect()

    reason = "net_sharpe: result.json says another figure than its predictions"
    assert published.judged.reason == reason
    assert {row.judged_reason for row in evaluations} == {reason}
    (run,) = FakeMlflow.published
    assert run["tags"]["judged.reason"] == reason


def test_the_baselines_equity_is_drawn_where_it_was_judged_on_the_same_rows(build, honest):
    world = build(FakeObjectStore())
    world.leave(pack(*honest))
    judged = world.collect()[0].judged
    theirs = world.parts.get_table(judged.series) | {"net": [0.001] * judged.rows}
    part = world.parts.put("judged/ref/i5/1-1/", theirs)

    def put_baseline(**changes):
        ref = with_fields(world.book.get_task("s-1", "i5"), submission_id="ref")
        stored = judged.change(series=part, **changes).dump()
        record = {**ref.dump(), "published": {"judged": stored}}
        world.book.put_stored(world.settings.tasks_table, record)
        event = EventRecord(
            entry="default",
            definition=parse_event('schema_version = 1\ntitle = "t"\n', name="default"),
            digest="0",
            version=1,
            baseline="ref",
        )
        world.book.put_stored(world.settings.events_table, event.dump())
        schedule = {"intervals": [5]}
        world.book.change_submission(
            "s-1", lambda found: found.change(schedule=schedule, schedule_run_id="s-1")
        )
        world.collect()
        figures = json.loads(FakeMlflow.published[-1]["files"]["charts/figures.json"])
        assert figures["baseline"] == ("ref" if figures["figures"]["equity"]["baseline"] else None)
        return figures["figures"]["equity"]["baseline"]

    drawn = put_baseline()
    assert drawn[0] == pytest.approx(1.001)
    assert drawn[-1] == pytest.approx(1.001**judged.rows)
    assert put_baseline(rows_digest="0" * 64) is None
    assert put_baseline(rules=judged.rules.change(sha256="0" * 64)) is None


@pytest.mark.parametrize(
    ("python", "question", "told"),
    [
        (Path("/nowhere/python"), {}, "environment is not there"),
        (None, {}, "ended with code 2: touchstone_judge: KeyError"),
        (None, {"kind": "board", "baseline": "x", "rows": [{"name": 1}]}, "ended with code 2"),
        (Path("/bin/true"), {}, "answer makes no sense"),
    ],
)
def test_what_cannot_be_drawn_is_a_reason(python, question, told):
    with pytest.raises(NotDrawn, match=told):
        charts.ask_for_charts(python or find_judge(Settings()), question)


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
    assert (published.metrics, published.reported) == ({}, result["metrics"])
    for row in evaluations:
        assert (row.judged, row.metrics) == ("not judged", {})
        assert row.judged_reason.startswith(reason)
        assert row.reported == result["metrics"]
    (run,) = FakeMlflow.published
    assert run["metrics"]["reported.net_sharpe"] == result["metrics"]["net_sharpe"]
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


@pytest.mark.campaign(sample=3)
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
    assert published.reported["net_sharpe"] == honest[0]["metrics"]["net_sharpe"]

    # Mended, and `collect` cleared.
    mended = build(store)
    mended.book = world.book
    drawn, _ = mended.collect()
    assert drawn.judged.is_judged
    assert drawn.charts_note is None
    assert {row.judged for row in mended.book.list_evaluations("s-1")} == {"judged"}

    # A judge that breaks later takes nothing back.
    broken = build(store, settings.model_copy(update={"judge_python": python}))
    broken.book = world.book
    later, _ = broken.collect()
    assert later.judged.is_judged
    assert (later.charts, later.charts_note) == (drawn.charts, None)
    # The run with the charts is found again by its tags, and stays.
    first, second = (run["tags"] for run in FakeMlflow.published[-2:])
    assert first == second
    assert first["judged.charts"] == "drawn"


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
