"""The list of tasks: whose, by which filters, and page by page."""

from __future__ import annotations

import pytest

from fakes.api import NOW

HOSTILE = ["<script>", "x" * 4096, "a\u202eb", "\x00"]


@pytest.fixture
def world(make_submission, make_task):
    """Write three submissions of two users, with tasks on two servers."""
    for number, user in enumerate(("engineer", "other", "engineer"), 1):
        at = NOW.replace(hour=number).isoformat()
        make_submission(f"s-{number}", submitted_by=user, created_at=at)
        make_task(f"s-{number}", "i5", server="rio", created_at=at)
        make_task(f"s-{number}", "i20", server="lima", created_at=at, status="error", reason="odd")


def ask(client, **query):
    answer = client.get("/api/v1/tasks", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def names(found):
    return [f"{each['submission_id']}/{each['task_id']}" for each in found["tasks"]]


@pytest.mark.usefixtures("world")
def test_an_admin_sees_all_newest_first_and_page_by_page(login):
    admin = login("chief", "admin")
    seen, cursor = [], {}
    for _ in range(4):
        page = ask(admin, limit=2, **cursor)
        assert len(page["tasks"]) <= 2
        seen += names(page)
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}

    assert sorted(seen) == sorted(f"s-{n}/{t}" for n in (1, 2, 3) for t in ("i5", "i20"))
    assert [each[:3] for each in seen] == ["s-3", "s-3", "s-2", "s-2", "s-1", "s-1"]


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"status": "error"}, {"s-1/i20", "s-2/i20", "s-3/i20"}),
        ({"submission": "s-2"}, {"s-2/i5", "s-2/i20"}),
        ({"submission": "s-2", "status": "running"}, {"s-2/i5"}),
        ({"user": "other"}, {"s-2/i5", "s-2/i20"}),
        ({"user": "other", "server": "lima"}, {"s-2/i20"}),
        ({"server": "rio"}, {"s-1/i5", "s-2/i5", "s-3/i5"}),
        ({"server": "rio", "user": "nobody"}, set()),
        ({"server": "none"}, set()),
    ],
)
def test_filters_go_together(login, query, expected):
    assert set(names(ask(login("chief", "admin"), **query))) == expected


@pytest.mark.usefixtures("world")
def test_a_user_sees_his_own_whatever_he_asks_for(engineer):
    own = {f"s-{n}/{t}" for n in (1, 3) for t in ("i5", "i20")}

    assert set(names(ask(engineer))) == own
    assert set(names(ask(engineer, server="rio"))) == {"s-1/i5", "s-3/i5"}
    assert names(ask(engineer, user="other")) == []
    assert set(names(ask(engineer, user="engineer", status="error"))) == {"s-1/i20", "s-3/i20"}
    foreign = engineer.get("/api/v1/tasks", params={"submission": "s-2"})
    missing = engineer.get("/api/v1/tasks", params={"submission": "s-9"})
    assert foreign.status_code == missing.status_code == 404
    assert foreign.text == missing.text.replace("s-9", "s-2")


def test_whose_a_task_is_the_submissions_record_decides(login, make_submission, make_task):
    make_submission("s-1", submitted_by="other")
    make_task("s-1", "i5")

    assert names(ask(login())) == []


@pytest.mark.parametrize("name", ["server", "user", "submission"])
@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_filter_finds_nothing(login, name, value):
    answer = login("chief", "admin").get("/api/v1/tasks", params={name: value})

    assert answer.status_code in {200, 404, 422}
    if answer.status_code == 200:
        assert answer.json()["tasks"] == []


@pytest.mark.parametrize("cursor", ["nonsense", "eA", "x" * 513])
@pytest.mark.parametrize("role", ["user", "admin"])
def test_a_cursor_of_another_list_is_refused(login, cursor, role):
    answer = login(role=role).get("/api/v1/tasks", params={"cursor": cursor})

    assert answer.status_code in {400, 422}


def test_an_unreadable_task_hides_no_other(login, records, settings, make_submission, make_task):
    make_submission()
    make_task()
    make_task("s-1", "i20")
    stored = records.get_stored(settings.tasks_table, "s-1", "i20")
    records.put_stored(settings.tasks_table, stored | {"percent": "odd"})

    assert names(ask(login("chief", "admin"))) == ["s-1/i5"]
