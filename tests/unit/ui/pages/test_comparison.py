"""The page that compares submissions, and the list that leads to it."""

from __future__ import annotations

import pytest

from fakes.events import EventWorld, FakeJudge, build_net
from touchstone.stores.parts import Parts
from unit.ui.pages.test_pages import XSS, assert_harmless, look


@pytest.fixture
def world(records, objects, settings):
    return EventWorld(records, Parts(objects, settings.content_bucket), FakeJudge(), settings)


def build_line(interval=5, **fields):
    plain = {"task_id": f"i{interval}", "interval": interval, "status": "success"}
    metrics = {"net_sharpe": 0.51234, "net_sharpe_low": 0.1, "net_sharpe_high": 0.9}
    return plain | {"metrics": metrics, "judged": "judged"} | fields


def test_the_list_leads_to_a_comparison_of_what_is_ticked(engineer, make_submission):
    make_submission("s-1", results=[build_line()], status="success")
    make_submission("s-2", status="success")

    outline = look(engineer.get("/submissions"))

    boxes = [value for tag, name, value in outline.attributes if (tag, name) == ("input", "value")]
    assert {"s-1", "s-2"} <= set(boxes)
    assert ("form", "action", "/compare") in outline.attributes
    text = engineer.get("/compare?submission=s-1&submission=s-2").text
    assert "0.5123" in text
    assert "[0.1, 0.9]" in text
    assert "n/a" in text
    assert "it was not trained for this interval" in text
    assert "touchstone compare s-1 s-2 --by-interval" in text


@pytest.mark.parametrize("count", [0, 1, 6, 50])
def test_too_few_or_too_many_are_answered_in_words(engineer, count):
    query = [("submission", f"s-{number}") for number in range(count)]

    answer = engineer.get("/compare", params=query)

    assert answer.status_code == 200
    assert "Choose 2 to 5 submissions" in answer.text


def test_the_same_one_twice_is_one(engineer, make_submission):
    make_submission()

    assert "1 is chosen" in engineer.get("/compare?submission=s-1&submission=s-1").text


def test_a_baseline_and_verdicts_stand_beside_with_a_drawing(login, world):
    world.train("ref", build_net(1), user="chief")
    world.keeper.set_baseline("default", "ref", by="chief")
    world.arrive("s-1", build_net(2, edge=0.002), user="engineer")
    world.arrive("s-2", build_net(3), user="engineer")

    text = login("chief", "admin").get("/compare?submission=s-1&submission=s-2").text

    assert "Not distinguishable: <code>ref</code>." in text
    assert text.count('class="whisker"') == 2
    assert '<span class="chip idle">baseline</span>' in text
    assert "/submissions/ref" in text


def test_what_cannot_be_seen_is_told_and_hides_no_other(engineer, make_submission):
    make_submission("mine-1")
    make_submission("theirs-1", submitted_by="other")

    text = engineer.get("/compare?submission=mine-1&submission=theirs-1").text
    missing = engineer.get("/compare?submission=mine-1&submission=none-1").text

    assert "theirs-1: there is no such submission of yours" in text
    assert text.replace("theirs-1", "none-1") == missing
    nothing = engineer.get("/compare?submission=none-1&submission=none-2").text
    assert "Nothing to compare" in nothing


def test_fifty_intervals_of_five_submissions_are_all_there(engineer, make_submission):
    lines = [build_line(interval) for interval in range(1, 51)]
    for number in range(5):
        make_submission(f"s-{number}", results=lines, status="success")

    answer = engineer.get("/compare", params=[("submission", f"s-{n}") for n in range(5)])

    assert answer.status_code == 200
    assert answer.text.count("0.5123") == 250


def test_no_field_becomes_markup(admin, make_submission):
    charts = [
        {"task_id": "i5", "name": XSS, "url": "http://m.example/x.png", "by": XSS},
        {"task_id": "i5", "name": "bad", "url": "javascript:alert(1)", "by": "judge"},
    ]
    for name in ("s-1", "s-2"):
        make_submission(
            name,
            submitted_by=XSS,
            results=[build_line(metrics={}, reason=XSS, judged_reason=XSS)],
            chart_links=charts,
        )

    answer = admin.get("/compare?submission=s-1&submission=s-2")

    assert_harmless(answer)
    assert "&lt;script&gt;" in answer.text
    assert [link for link in look(answer).links() if "alert" in link] == []


@pytest.mark.parametrize("odd", ["../../x", "<script>", "A B", "s-1&x=1"])
def test_an_id_that_is_none_is_refused_and_escaped(admin, odd):
    answer = admin.get("/compare", params=[("submission", "s-1"), ("submission", odd)])

    assert answer.status_code == 400
    assert "<script>" not in answer.text


@pytest.mark.parametrize(("kind", "type_"), [("csv", "text/csv"), ("json", "application/json")])
def test_downloads_are_files_with_the_same_figures(engineer, make_submission, kind, type_):
    make_submission("s-1", results=[build_line()], status="success")
    make_submission("s-2", status="success")
    page = engineer.get("/compare?submission=s-1&submission=s-2")

    (link,) = [each for each in look(page).links() if each.startswith(f"/compare.{kind}")]
    answer = engineer.get(link)

    assert answer.headers["content-type"].startswith(type_)
    assert "attachment" in answer.headers["content-disposition"]
    assert "0.51234" in answer.text
    assert engineer.get(f"/compare.{kind}?submission=s-1").status_code == 422
