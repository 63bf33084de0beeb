"""The page of tasks."""

from __future__ import annotations

import pytest

from fakes.outline import assert_harmless, look
from touchstone.pages import tasks

XSS = "<script>alert(1)</script><img src=x onerror=alert(1)>"


def test_tasks_are_shown_with_links_and_filters_stay(admin, make_submission, make_task):
    make_submission()
    make_task(server="rio", percent=42)

    answer = admin.get("/tasks", params={"status": "running", "user": "", "server": ""})

    assert {"/submissions/s-1", "/submissions/s-1/tasks/i5/log"} <= set(look(answer).links())
    assert "42 %" in answer.text
    assert ("status", "running") in look(answer).forms["/tasks"]
    assert "/tasks" in look(admin.get("/submissions")).links()


def test_a_user_sees_his_own(login, make_submission, make_task):
    make_submission("mine-1")
    make_task("mine-1")
    make_submission("theirs-1", submitted_by="other")
    make_task("theirs-1")

    text = login().get("/tasks").text

    assert ("mine-1" in text, "theirs-1" in text) == (True, False)
    assert login().get("/tasks", params={"submission": "theirs-1"}).status_code == 404


def test_a_long_list_leads_on(admin, make_submission, make_task, monkeypatch):
    monkeypatch.setattr(tasks, "PAGE_SIZE", 1)
    make_submission()
    make_task()
    make_task("s-1", "i20")

    first = admin.get("/tasks", params={"status": "running"})
    following = next(link for link in look(first).links() if "cursor=" in link)
    second = admin.get(following)

    assert "status=running" in following
    assert (first.text.count("/log"), second.text.count("/log")) == (1, 1)
    assert ("data-live" in first.text, "data-live" in second.text) == (True, False)


@pytest.mark.parametrize("value", [XSS[:40], "a\u202eb", "\x1b"])
def test_nothing_that_is_asked_for_or_shown_becomes_markup(
    admin, make_submission, make_task, value
):
    make_submission()
    make_task(server=XSS, reason=XSS)

    assert_harmless(admin.get("/tasks"))
    assert_harmless(admin.get("/tasks", params={"server": value, "user": value, "status": "moon"}))


def test_without_any_task_the_page_says_what_one_is(engineer):
    assert "No task yet" in engineer.get("/tasks").text
    assert "Nothing matches" in engineer.get("/tasks", params={"server": "rio"}).text
