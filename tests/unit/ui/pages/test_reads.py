"""How often an open page asks the stores: hundreds are open, and each asks every few seconds."""

from __future__ import annotations

from datetime import timedelta

import pytest

from fakes.api import NOW
from fakes.history import History
from fakes.outline import look
from touchstone.cache import KeptBytes
from touchstone.core.queue import QUEUE_KEY
from touchstone.pages.app import build_app
from touchstone.pages.open_pages import KEPT_SECONDS, OpenPages, get_open_pages
from touchstone.stores.objects import KEPT_BYTES
from touchstone.stores.tables import from_item
from touchstone.ui.conditional import Conditional
from touchstone.ui.dependencies import get_clock


@pytest.fixture
def asked(monkeypatch, records, objects):
    """What the stores are asked for from now on, in order."""
    seen = []

    def watch(store, name):
        ask = getattr(store, name)

        def count(*args, **options):
            seen.append((name, args[1]))
            return ask(*args, **options)

        monkeypatch.setattr(store, name, count)

    for name in ("_find", "_find_many", "_query"):
        watch(records, name)
    for name in ("get", "iterate"):
        watch(objects, name)
    return seen


def count_records(asked):
    return [name for name, _ in asked if name.startswith("_")]


def test_an_open_submission_reads_its_record_its_tasks_and_its_entries(
    engineer, make_submission, make_task, asked
):
    make_submission()
    for task_id in ("i1", "i5", "i20"):
        make_task(task_id=task_id)
    asked.clear()

    assert engineer.get("/submissions/s-1").status_code == 200

    assert count_records(asked) == ["_find", "_query", "_query"]
    assert [key for name, key in asked if name == "get"] == [QUEUE_KEY]


def test_an_open_log_reads_what_is_new_and_nothing_twice(engineer, console, asked):
    address = "/submissions/s-1/tasks/i5/log"
    console("one\n")
    assert "one</li>" in engineer.get(address).text
    second = console("two\n")
    asked.clear()

    shown = engineer.get(f"{address}?attempt=1-1&offset=4").text

    assert "one</li>" not in shown
    assert "two</li>" in shown
    assert [key for name, key in asked if name == "get"] == [second]
    assert count_records(asked) == ["_find", "_find"]


@pytest.fixture
def now(app):
    """The time of what is kept of a moment ago."""
    moment = {"at": 0.0}
    kept = KeptBytes(KEPT_BYTES, seconds=KEPT_SECONDS, monotonic=lambda: moment["at"])
    open_pages = OpenPages(kept)
    app.dependency_overrides[get_open_pages] = lambda: open_pages
    return moment


def test_two_open_pages_of_a_user_read_once_a_second(
    engineer, records, make_submission, asked, now
):
    make_submission()
    tag = {"If-None-Match": engineer.get("/submissions/s-1").headers["ETag"]}
    asked.clear()

    again = [engineer.get("/submissions/s-1", headers=tag).status_code for _ in range(3)]

    assert (again, count_records(asked)) == ([304] * 3, [])
    records.change_submission("s-1", lambda found: found.change(notes="other"))
    now["at"] = KEPT_SECONDS
    assert "other" in engineer.get("/submissions/s-1", headers=tag).text


def test_who_opens_a_page_gets_it_anew_and_so_do_his_open_ones(
    engineer, records, make_submission, now
):
    make_submission()
    tag = {"If-None-Match": engineer.get("/submissions/s-1").headers["ETag"]}
    records.change_submission("s-1", lambda found: found.change(notes="other"))

    assert "other" in engineer.get("/submissions/s-1").text
    assert "other" in engineer.get("/submissions/s-1", headers=tag).text


def test_what_one_user_was_shown_is_shown_to_no_other(login, make_submission, now):
    make_submission()
    tag = {"If-None-Match": login().get("/submissions/s-1").headers["ETag"]}

    assert login("other").get("/submissions/s-1", headers=tag).status_code == 404
    assert login("other").get("/submissions/s-1", headers={"If-None-Match": "*"}).status_code == 404
    shown = login("chief", "admin").get("/submissions/s-1", headers=tag)
    assert "chief" in shown.text


def test_a_long_leaderboard_is_shown_in_parts(engineer, records, settings):
    past = History(submissions=250, event_size=250)
    for item in past.build_events():
        records.put_stored(settings.events_table, from_item(item))

    pages = [look(engineer.get(f"/events/default?first={first}")) for first in (1, 101, 201, 301)]

    shown = [sum(link.startswith("/submissions/past-") for link in page.links()) for page in pages]
    # Flat and index have rows as well.
    assert sum(shown) == 250
    assert max(shown) <= 100
    assert ["?first=101" in page.links() for page in pages] == [True, False, False, False]


def test_what_is_kept_of_objects_has_a_limit(objects):
    size = KEPT_BYTES // 4
    for number in range(8):
        objects.put("b", f"k{number}", bytes([number]) * size)
        assert objects.get_unchanging("b", f"k{number}", max_bytes=size)[0] == number

    kept = [number for number in range(8) if objects._kept.find(("b", f"k{number}")) is not None]

    assert kept == [4, 5, 6, 7]


@pytest.fixture
def bare_app():
    """One of its own: these tests change what it keeps, and for how long."""
    return build_app()


@pytest.fixture
def steady(app, now):
    """The same clock for what is answered before the route runs."""
    (layer,) = (each for each in app.user_middleware if each.cls is Conditional)
    layer.kwargs["kept"] = KeptBytes(KEPT_BYTES, seconds=KEPT_SECONDS, monotonic=lambda: now["at"])
    return now


@pytest.fixture
def routed(monkeypatch):
    """How often a page was looked for, made anew or not."""
    seen = []
    show = OpenPages.show
    monkeypatch.setattr(OpenPages, "show", lambda *told: seen.append(told[2].name) or show(*told))
    return seen


def ask_again(client, tag, **headers):
    return client.get("/submissions/s-1", headers={"If-None-Match": tag, **headers})


def test_who_asks_again_a_moment_later_is_answered_before_the_route_runs(
    engineer, records, make_submission, steady, routed
):
    make_submission()
    cookie = {"Cookie": "_token=mine"}
    first = engineer.get("/submissions/s-1", headers=cookie)
    tag = first.headers["ETag"]
    assert len(routed) == 1

    again = [ask_again(engineer, tag, **cookie) for _ in range(3)]
    older = ask_again(engineer, '"older"', **cookie)

    assert [each.status_code for each in again] == [304] * 3
    assert (older.status_code, older.content) == (200, first.content)
    for name in ("ETag", "Content-Type", "Content-Security-Policy", "Cache-Control"):
        assert older.headers[name] == first.headers[name]
    assert len(routed) == 1
    records.change_submission("s-1", lambda found: found.change(notes="other"))
    steady["at"] = KEPT_SECONDS
    assert "other" in ask_again(engineer, tag, **cookie).text
    assert len(routed) == 2


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Cookie": "_token=other"},
        {"Cookie": "_token=mine", "Authorization": "Bearer other"},
        {"Authorization": "Bearer mine"},
        {"Cookie": "_token=mine; a=b"},
    ],
)
def test_other_credentials_are_checked_whatever_was_answered_to_some(
    login, make_submission, steady, routed, headers
):
    make_submission()
    asked = login().get("/submissions/s-1", headers={"Cookie": "_token=mine"})
    tag = asked.headers["ETag"]

    for known in (tag, "*"):
        assert ask_again(login("other"), known, **headers).status_code == 404
    assert routed == ["engineer", "other", "other"]


def test_another_page_is_none_that_was_answered(engineer, make_submission, steady, routed):
    make_submission()
    cookie = {"Cookie": "_token=mine"}
    tag = engineer.get("/submissions/s-1", headers=cookie).headers["ETag"]

    for address in ("/submissions/s-1?interval=5", "/submissions/s-2"):
        engineer.get(address, headers={"If-None-Match": tag, **cookie})

    assert len(routed) == 3


def test_no_page_but_an_open_one_stands_for_a_moment(engineer, make_submission, asked, steady):
    make_submission()
    cookie = {"Cookie": "_token=mine"}
    tag = engineer.get("/submissions", headers=cookie).headers["ETag"]
    asked.clear()

    assert engineer.get("/submissions", headers={"If-None-Match": tag, **cookie}).status_code == 304
    assert count_records(asked)


def test_time_that_passes_makes_no_other_page(engineer, app, console, now):
    console("one\n")
    moment = {"now": NOW}
    app.dependency_overrides[get_clock] = lambda: lambda: moment["now"]
    address = "/submissions/s-1/tasks/i5/log"
    first = engineer.get(address)
    moment["now"] += timedelta(seconds=60)

    later = engineer.get(address)

    assert "running, began" in first.text
    assert (first.text != later.text, first.headers["ETag"]) == (True, later.headers["ETag"])
    console("two\n")
    assert engineer.get(address).headers["ETag"] != first.headers["ETag"]
