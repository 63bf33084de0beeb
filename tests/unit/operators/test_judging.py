"""The steps of a run that are about events: entering one, the verdict, and closing."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowFailException

from fakes.events import EventWorld, FakeJudge, build_net
from fakes.stores import FakeObjectStore, FakeRecordStore
from touchstone.confined import charts
from touchstone.core.charts import DrawnCharts
from touchstone.core.conf import parse_conf
from touchstone.core.events import EventRefused, parse_event
from touchstone.core.records.events import VerdictRecord
from touchstone.core.results import SubmissionEnd
from touchstone.core.states import SubmissionStatus
from touchstone.hooks import mlflow
from touchstone.operators import judging as steps
from touchstone.operators import submission as others
from touchstone.operators.authority import get_run
from touchstone.services.judging import Judge
from touchstone.settings import get_settings
from touchstone.stores.events import UnknownEvent
from touchstone.stores.parts import Parts
from touchstone_agent.protocol.errors import TransientError

SMALL = 'schema_version = 1\ntitle = "Sharpe"\n'


@pytest.fixture
def world(monkeypatch):
    settings = get_settings()
    records, objects = FakeRecordStore(settings), FakeObjectStore()
    world = EventWorld(records, Parts(objects, settings.content_bucket), FakeJudge(), settings)
    for module in (steps, others):
        monkeypatch.setattr(module, "connect_records", lambda: records)
    monkeypatch.setattr("touchstone.stores.objects.ObjectStore.connect", lambda _: objects)
    monkeypatch.setattr(Judge, "connect", lambda *_: world.judge)
    FakeMlflow.published, FakeMlflow.fault = [], None
    monkeypatch.setattr(mlflow, "MlflowHook", FakeMlflow)
    monkeypatch.setattr(charts, "ask_for_charts", draw)
    return world


class FakeMlflow:
    """Notes what is published, and the files as they were."""

    published: list[dict]
    fault: Exception | None

    def __init__(self, settings=None):
        pass

    def publish(self, *, artifacts, **facts):
        if FakeMlflow.fault:
            raise FakeMlflow.fault
        facts["files"] = {path.name: path.read_text() for path in artifacts.iterdir()}
        FakeMlflow.published.append(facts)


def draw(_, question):
    return DrawnCharts(figures={"board": question}, charts={"board": "<svg/>"}, notes={})


def build_context(run_id="s-1", user="ann", **params):
    run = SimpleNamespace(run_id=run_id, conf={}, triggering_user_name=user)
    return {"dag_run": run, "params": params}


def test_a_verdict_that_is_reached_is_on_the_submissions_record(world):
    world.keeper.set_baseline("default", "flat", by="admin")
    world.train("s-1", build_net(1))

    sentence = steps.judge_arrival(**build_context())
    others.evaluate_submission(**build_context())

    assert sentence == "Not distinguishable: `flat`."
    found = world.records.get_submission("s-1")
    assert (found.verdict, found.verdict_reason) == ("not distinguishable", sentence)
    assert found.similarity == found.beside.similarity.value == 0.5


def test_beside_a_verdict_the_board_is_drawn_with_everybodys_intervals(world):
    world.keeper.set_baseline("default", "flat", by="admin")
    world.arrive("s-0", build_net(3))
    world.arrive("s-9", None)
    world.train("s-1", build_net(1))

    steps.judge_arrival(**build_context())
    steps.judge_arrival(**build_context())

    first, again = FakeMlflow.published
    assert first == again, "MLflow finds the same run by its tags"
    assert (first["task_key"], first["model_group_id"]) == ("s-1/verdict", "s-1")
    assert first["metrics"]["difference"] == first["metrics"]["p"] == 0.25
    assert first["metrics"]["similarity"] == 0.5
    assert "contributivity" not in first["metrics"], "there is none before the closing"
    assert set(first["files"]) == {"board.svg", "board.json"}
    shown = json.loads(first["files"]["board.json"])["figures"]["board"]
    figures = {"difference": 0.25, "low": 0.25, "high": 0.25}
    assert shown["rows"] == [
        {"name": "s-0", "is_own": False, **figures},
        {"name": "s-1", "is_own": True, **figures},
    ]


@pytest.mark.parametrize("broken", ["the judge", "MLflow"])
def test_a_verdict_stands_though_nothing_can_be_drawn(world, monkeypatch, broken):
    world.keeper.set_baseline("default", "flat", by="admin")
    world.train("s-1", build_net(1))

    def fail(*_):
        raise charts.NotDrawn("no fonts")

    if broken == "the judge":
        monkeypatch.setattr(charts, "ask_for_charts", fail)
    else:
        FakeMlflow.fault = TransientError("MLflow is away")

    assert steps.judge_arrival(**build_context()) == "Not distinguishable: `flat`."
    close = steps.CloseEventOperator(task_id="close")
    assert close.execute(build_context(user="admin", event="default"))["judged"]
    assert FakeMlflow.published == []


def test_no_board_is_drawn_of_what_is_told_after_closing_and_then_it_is(world):
    text = SMALL + "[rows]\nclosed_from = 2014-02-01\n[judging]\nbaseline = 'flat'\n"
    world.keeper.apply("default", parse_event(text, name="default"), by="admin")
    world.train("s-1", build_net(1))

    assert steps.judge_arrival(**build_context()) == "Not judged: after closing."
    assert FakeMlflow.published == []

    close = steps.CloseEventOperator(task_id="close")
    close.execute(build_context(user="admin", event="default"))
    (run,) = FakeMlflow.published
    assert run["task_key"] == "event default/board"
    (row,) = json.loads(run["files"]["board.json"])["figures"]["board"]["rows"]
    assert (row["name"], row["is_own"]) == ("s-1", False)


def test_a_run_that_failed_is_told_as_it_was_and_its_entry_says_why(world):
    world.train("s-1", None, fields={"status": "error", "outcome": "failed(user)"})

    assert steps.judge_arrival(**build_context()).startswith("Not judged: 2 of 2 intervals")
    with pytest.raises(AirflowFailException):
        others.evaluate_submission(**build_context())
    assert world.records.get_submission("s-1").verdict == "not judged"


def test_a_judging_that_came_to_no_end_is_told_with_the_way_out(world):
    world.train("s-1", build_net(1))

    others.evaluate_submission(**build_context())

    assert "clear the task 'judge'" in world.records.get_submission("s-1").verdict_reason


def test_a_strangers_run_judges_nothing(world):
    world.train("s-1", build_net(1))

    with pytest.raises(AirflowFailException, match="nothing was changed"):
        steps.judge_arrival(**build_context(user="eve"))
    assert world.events.list_entries("default").records[0].verdict is None


def test_what_is_no_schedule_and_what_is_a_replay_is_not_judged(world):
    world.train("s-1", build_net(1))
    world.records.change_submission("s-1", lambda found: found.change(replay_of="s-0/i5"))

    assert steps.judge_arrival(**build_context()) is None


def test_a_schedule_of_an_event_that_refuses_it_is_refused_before_anything_is_fetched(world):
    text = SMALL + "closes_at = 2020-01-01T00:00:00Z"
    world.keeper.apply("old", parse_event(text, name="old"), by="admin")
    conf = {"source": "upload:" + "0" * 64, "intervals": "1"}

    def enter(**more):
        run = get_run(build_context())
        steps.enter_event(world.records, parse_conf({**conf, **more}), "s-1", run)

    with pytest.raises(EventRefused, match="has been closed since 2020-01-01"):
        enter(event="old")
    with pytest.raises(UnknownEvent, match="there is no event 'none'"):
        enter(event="none")
    enter()
    (entry,) = world.events.list_entries("default").records
    assert (entry.user, entry.run_id) == ("ann", "s-1")


def test_an_admin_who_schedules_for_somebody_takes_that_ones_place(world):
    world.train("s-1", build_net(1), user="ben")
    conf = parse_conf({"submission_id": "s-1", "intervals": "1"})

    steps.enter_event(world.records, conf, "s-1", get_run(build_context("s-1--2", user="admin")))

    assert len(world.events.find_participant("default", "ben").uses) == 2
    assert world.events.find_participant("default", "admin").uses == ()


def test_only_an_admins_run_closes_an_event(world):
    world.keeper.set_baseline("default", "flat", by="admin")
    world.arrive("s-1", build_net(1))
    close = steps.CloseEventOperator(task_id="close")

    with pytest.raises(AirflowFailException, match="ann may close no event"):
        close.execute(build_context(event="default"))
    with pytest.raises(AirflowFailException, match="cannot be an event's name"):
        close.execute(build_context(user="admin", event="../x"))
    with pytest.raises(AirflowFailException, match="there is no event"):
        close.execute(build_context(user="admin", event="none"))
    assert world.events.get_event("default").closed_at is None

    done = close.execute(build_context(user="admin", event="default"))
    assert [label.partition(":")[0] for label in done["judged"]] == ["s-1"]
    assert world.events.get_event("default").closed_at is not None


def test_of_rows_that_are_told_after_closing_no_figure_is_left():
    end = SubmissionEnd(
        status=SubmissionStatus.SUCCESS, reason=None, results=(), chart_links=(), score=1.5
    )
    verdict = VerdictRecord(
        at="2026-12-01T00:00:00+00:00",
        phase="arrival",
        outcome="not judged",
        sentence="Not judged: after closing.",
        reason="after closing",
    )

    assert steps.add_verdict(end, verdict).score is None


def test_a_run_enters_its_event_with_the_columns_that_it_waives(world):
    sent = {"source": "https://host/x.git", "waived_columns": ["target"], "intervals": "1"}
    conf = parse_conf(sent)

    steps.enter_event(world.records, conf, "s-1", get_run(build_context()))

    (entry,) = world.events.list_entries("default").records
    assert entry.waived_columns == ("target",)


def test_mlflow_tells_which_columns_of_a_verdict_are_waived(world):
    world.keeper.set_baseline("default", "flat", by="admin")
    world.train("s-1", build_net(1), waived=["target"])

    sentence = steps.judge_arrival(**build_context())

    assert sentence.endswith("1 column is waived from the checks for look-ahead.")
    (published,) = FakeMlflow.published
    assert published["params"]["waived_columns"] == "'target'"
