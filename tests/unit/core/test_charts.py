"""Whose a file is, what is asked of the judge, and what is taken of its answer."""

from __future__ import annotations

import csv

import pytest
from pydantic import ValidationError

from fakes.tasks import build_task
from touchstone.core.charts import (
    MAX_CHART,
    BaselineReturns,
    DrawnCharts,
    build_question,
    is_open_file,
    place_file,
    write_returns,
)
from touchstone.core.judging import (
    RULES,
    JudgeAnswer,
    hide_figures_of_reason,
    hide_held_back,
    refuse_judging,
)
from touchstone.core.records.tasks import Published
from touchstone.core.results import judge_submission

ANSWER = JudgeAnswer(
    judged=True,
    metrics={"net_sharpe": 0.5},
    time=("2014-01-02T00:00:00+00:00", "2014-01-03T00:00:00+00:00"),
    net=(0.1, -0.2),
    market=(0.5, 0.25),
    score=(0.25, -0.5),
    target=(0.5, 0.75),
    position=(0.5, -1.0),
    long=(0.75, 0.25),
    short=(0.5, 0.75),
)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("charts/equity.png", "reported/charts/equity.png"),
        ("charts", "reported/charts"),
        ("returns.csv", "reported/returns.csv"),
        ("reported/returns.csv", "reported/reported/returns.csv"),
        ("reported", "reported/reported"),
        ("chartsy/equity.png", "chartsy/equity.png"),
        ("my/charts/equity.png", "my/charts/equity.png"),
        ("predictions.csv", "predictions.csv"),
    ],
)
def test_where_the_judges_files_stand_the_trainers_are_reported_only(path, place):
    assert place_file(path) == place


@pytest.mark.parametrize(
    ("path", "is_open"),
    [
        ("models/long.h5", True),
        ("effective_config.json", True),
        ("result.json", False),
        ("predictions.csv", False),
        ("console.log", False),
        ("effective_config.json.png", False),
        ("x/models/long.h5", False),
    ],
)
def test_what_holds_no_figure_is_named_and_all_else_is_held_back(path, is_open):
    assert is_open_file(path) is is_open


def test_returns_are_what_was_held_times_the_market_and_after_cost():
    lines = list(csv.DictReader(write_returns(ANSWER).decode().splitlines()))

    assert lines == [
        {"time": ANSWER.time[0], "position": "0.5", "gross": "0.25", "net": "0.1"},
        {"time": ANSWER.time[1], "position": "-1.0", "gross": "-0.25", "net": "-0.2"},
    ]


def test_the_judge_is_asked_about_its_own_figures_and_the_baselines():
    question = build_question(ANSWER, RULES, 5, BaselineReturns(name="ref", net=(0.0, 0.5)))

    assert question["net"] == [0.1, -0.2]
    assert (question["baseline"], question["baseline_net"]) == ("ref", [0.0, 0.5])
    assert (question["interval"], question["threshold"]) == (5, 1e-4)
    assert build_question(ANSWER, RULES, 5, None)["baseline_net"] is None


@pytest.mark.parametrize(
    "change",
    [
        {"charts": {"../x": "<svg/>"}},
        {"charts": {"a/b": "<svg/>"}},
        {"charts": {"equity": "x" * (MAX_CHART + 1)}},
        {"charts": {f"c{'x' * n}": "" for n in range(11)}},
        {"charts": []},
        {"notes": {"equity": "x" * 201}},
        {"figures": {"A": 1}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_answer_that_could_be_another_file_or_is_too_large_is_none(change):
    with pytest.raises(ValidationError):
        DrawnCharts.model_validate({"figures": {}, "charts": {}, "notes": {}, **change})


def test_an_answer_with_some_rows_only_is_none():
    with pytest.raises(ValidationError, match="some rows only"):
        JudgeAnswer.model_validate(ANSWER.model_dump() | {"position": [0.5]})


def test_a_reason_that_names_figures_keeps_the_name_alone():
    """What differs from a closed row's figure would be told by being told wrong."""
    told = refuse_judging("net_sharpe: result.json says 0.0, its predictions give 0.54", RULES)
    other = refuse_judging("other rows (split.test_from is 2017-01-01, the rules say x)", RULES)

    hidden = hide_figures_of_reason(told)
    assert hidden.reason == "net_sharpe: result.json says another figure than its predictions"
    assert hide_figures_of_reason(other) == other


def test_of_what_is_held_back_no_figure_is_left_and_of_others_all():
    figures = {"net_sharpe": 0.5}
    stored = {
        "metrics": figures,
        "reported": figures,
        "metric_notes": {"a": "b"},
        "charts": [{"name": "equity", "url": "u"}],
        "mlflow_url": "m",
        "judged": {"status": "judged", "metrics": figures, "beta": 0.5, "rows": 7},
    }
    published = Published.load(stored)

    assert hide_held_back(published) == published
    hidden = hide_held_back(published.change(held_back="winter"))
    assert "0.5" not in str(hidden.dump())
    assert (hidden.charts, hidden.mlflow_url, hidden.judged.rows) == ((), "m", 7)


def test_a_record_of_before_holds_nothing_back():
    published = Published.load({"metrics": {"x": 1}, "charts": [{"name": "e", "url": "u"}]})

    assert (published.held_back, published.charts[0].by) == (None, None)
    assert published.dump() == {"metrics": {"x": 1}, "charts": [{"name": "e", "url": "u"}]}


def test_a_submission_that_is_held_back_has_no_score_though_no_verdict_came(make_judged_task):
    end = judge_submission([make_judged_task(held_back="winter")])

    assert (end.score, end.verdict_reason) == (None, "after closing")
    assert (end.results[0].metrics, end.chart_links) == ({}, ())
    assert judge_submission([make_judged_task()]).score == 0.5


@pytest.fixture
def make_judged_task():
    def make(**fields):
        figures = {"net_sharpe": 0.5}
        published = Published.load(
            {
                "metrics": figures,
                "judged": {"status": "judged", "metrics": figures},
                "charts": [{"name": "equity", "url": "u", "by": "judge"}],
                **fields,
            }
        )
        task = build_task(status="success", published=published.dump())
        return task, published

    return make
