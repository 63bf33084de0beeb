"""Charts on pages: of one submission by interval, of several on one axis, held back or gone."""

from __future__ import annotations

import pytest

from fakes.outline import assert_harmless
from touchstone.core.figures import build_document
from touchstone.stores.parts import Parts
from unit.ui.pages.test_comparison import build_line
from unit.ui.pages.test_pages import XSS
from unit.ui.pages.test_plots import build_curve

JUDGED = {"status": "judged", "metrics": {"net_sharpe": 0.5}}


@pytest.fixture
def draw(objects, settings, make_task):
    """Return a function that puts a training with charts on record."""

    def put(submission_id="s-1", interval=5, baseline="ref", **fields):
        curve = build_curve(1.0, 1.25, baseline=[1.0, 0.9])
        document = build_document({"equity": curve, "drawdown": curve}, {}, baseline)
        part = Parts(objects, settings.content_bucket).put("charts/", document)
        published = {"judged": JUDGED, "drawn": part.dump(), "metrics": {"net_sharpe": 0.5}}
        make_task(
            submission_id,
            f"i{interval}",
            status="success",
            interval=interval,
            published=published | fields,
        )
        return part

    return put


def link(task_id):
    return {"task_id": task_id, "name": "equity", "by": "judge", "url": "http://m/a"}


def test_a_submission_shows_the_charts_of_one_interval_at_a_time(engineer, make_submission, draw):
    make_submission(status="success", results=[build_line(5), build_line(20)])
    draw(interval=5)
    draw(interval=20, baseline=None)

    first = engineer.get("/submissions/s-1").text
    second = engineer.get("/submissions/s-1?interval=20").text

    assert "Equity after cost" in first
    assert "baseline ref from 1 to 0.9" in first
    assert 'href="?interval=20#charts"' in first
    assert "/submissions/s-1/tasks/i5/charts.json" in first
    assert "baseline ref" not in second
    assert "/submissions/s-1/tasks/i20/charts.json" in second


@pytest.mark.parametrize("query", ["?interval=7", "?interval=250"])
def test_an_interval_without_charts_shows_the_first_that_has_some(
    engineer, make_submission, draw, query
):
    make_submission(status="success", results=[build_line(5)])
    draw(interval=5)

    assert "tasks/i5/charts.json" in engineer.get(f"/submissions/s-1{query}").text


def test_figures_are_the_apis_and_can_be_kept(engineer, make_submission, draw):
    make_submission(status="success")
    draw()

    answer = engineer.get("/submissions/s-1/tasks/i5/charts.json")

    assert answer.headers["content-disposition"] == 'attachment; filename="s-1-i5-charts.json"'
    document = answer.json()
    assert (document["baseline"], document["note"]) == ("ref", None)
    assert document["figures"]["equity"]["value"] == [1.0, 1.25]


def test_what_an_event_holds_back_has_no_charts(engineer, make_submission, draw):
    make_submission(status="success")
    draw(held_back="winter", charts_note="held back until the event is closed")

    assert "Equity" not in engineer.get("/submissions/s-1").text
    document = engineer.get("/submissions/s-1/tasks/i5/charts.json").json()
    assert (document["figures"], document["note"]) == ({}, "held back until the event is closed")


def test_charts_that_are_gone_are_told_and_hide_nothing_else(
    engineer, make_submission, draw, objects, settings
):
    make_submission(status="success", results=[build_line(5)])
    del objects.objects[settings.content_bucket, draw().key]

    answer = engineer.get("/submissions/s-1")

    assert answer.status_code == 200
    assert "they can no longer be read" in answer.text
    assert "0.5123" in answer.text


def test_several_submissions_are_on_one_axis(engineer, make_submission, draw):
    for name in ("s-1", "s-2"):
        lines = [build_line(5), build_line(20)]
        links = [link("i5"), link("i20")]
        make_submission(name, status="success", results=lines, chart_links=links)
        draw(name, 5)
    draw("s-2", 20)

    both = engineer.get("/compare?submission=s-1&submission=s-2").text
    one = engineer.get("/compare?submission=s-1&submission=s-2&interval=20").text

    assert "s-1 from 1 to 1.25" in both
    assert "s-2 from 1 to 1.25" in both
    assert "?submission=s-1&amp;submission=s-2&amp;interval=20#charts" in both
    assert "s-1 from" not in one
    assert "s-2 from 1 to 1.25" in one


def test_others_see_no_charts(login, make_submission, draw):
    make_submission(status="success")
    draw()

    assert login("other").get("/submissions/s-1/tasks/i5/charts.json").status_code == 404


def test_no_text_of_a_figure_becomes_markup(engineer, make_submission, draw):
    make_submission(status="success", results=[build_line(5)])
    draw(baseline=XSS)

    answer = engineer.get("/submissions/s-1")

    assert_harmless(answer)
    assert "<script>alert" not in answer.text


def test_folds_have_charts_of_their_own(engineer, make_submission, make_task, objects, settings):
    lines = [
        build_line(5),
        build_line(5, task_id="i5-f0", fold=0, rows="2005-01-01 to 2009-12-31"),
        build_line(5, task_id="i5-f1", fold=1, rows="from 2010-01-01"),
    ]
    schedule = {"intervals": [5], "folds": ["2005-01-01", "2010-01-01"]}
    make_submission(status="success", results=lines, schedule=schedule)
    for number, last in ((0, 1.5), (1, 2.5)):
        document = build_document({"equity": build_curve(1.0, last)}, {}, None)
        part = Parts(objects, settings.content_bucket).put("charts/", document)
        published = {"judged": JUDGED, "drawn": part.dump(), "metrics": {"net_sharpe": 0.5}}
        make_task("s-1", f"i5-f{number}", status="success", interval=5, published=published)

    first = engineer.get("/submissions/s-1").text
    second = engineer.get("/submissions/s-1?task=i5-f1").text

    assert "fold 0, 2005-01-01 to 2009-12-31" in first
    assert "Each interval was trained in 2 forward folds" in first
    assert 'href="?task=i5-f1#charts"' in first
    assert "interval 5, fold 1" in first
    assert "/submissions/s-1/tasks/i5-f0/charts.json" in first
    assert "/submissions/s-1/tasks/i5-f1/charts.json" in second
    for odd in ("?task=i5-f7", "?task=%3Cscript%3E", "?interval=20"):
        text = engineer.get(f"/submissions/s-1{odd}").text
        assert "/submissions/s-1/tasks/i5-f0/charts.json" in text
        assert "<script>" not in text.partition("charts.json")[0].rpartition("<h2")[2]
