"""The routes of events: who may change them, and what everybody may see."""

from __future__ import annotations

from datetime import timedelta

import pytest

from fakes.api import NOW
from fakes.events import EventWorld, FakeJudge, build_net
from touchstone.core.verdicts import build_board
from touchstone.stores.parts import Parts

API = "/api/v1"
SMALL = 'schema_version = 1\ntitle = "Sharpe"\n'


@pytest.fixture
def world(records, objects, settings):
    return EventWorld(records, Parts(objects, settings.content_bucket), FakeJudge(), settings)


def apply(client, text=SMALL, name="sp500"):
    return client.post(f"{API}/events/apply", json={"name": name, "text": text})


@pytest.mark.parametrize(("role", "status"), [("viewer", 403), ("user", 403), ("op", 200)])
def test_only_who_may_edit_pools_changes_an_event(login, world, role, status):
    client = login(role=role)

    assert apply(client).status_code == status
    answer = client.post(f"{API}/events/default/baseline", json={"baseline": "flat"})
    assert answer.status_code == status
    is_set = world.events.get_event("default").chosen_baseline == "flat"
    assert is_set is (status == 200)


def test_a_change_must_be_sent_as_json(login):
    answer = login("chief", "admin").post(f"{API}/events/apply", content=b"{}")

    assert answer.status_code == 415


def test_applying_twice_changes_nothing_and_both_say_so(login):
    client = login("chief", "admin")

    assert apply(client).json()["is_changed"] is True
    assert apply(client).json()["is_changed"] is False
    shown = client.get(f"{API}/events/sp500").json()
    assert (shown["title"], shown["is_on_record"]) == ("Sharpe", True)
    assert [each["by"] for each in shown["actions"]] == ["chief"]


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"name": "a/b", "text": SMALL}, 400, "cannot be an event's name"),
        ({"name": "sp500", "text": SMALL + "x = 1"}, 400, "event sp500: x: unknown key"),
        ({"name": "sp500", "text": SMALL, "by": "me"}, 422, "Extra inputs"),
        ({"name": "sp500", "text": 5}, 422, "string"),
        ({"name": "sp500", "text": "x" * 300_000}, 422, "at most"),
    ],
)
def test_a_hostile_file_is_refused_with_what_is_wrong(login, body, status, told):
    answer = login("chief", "admin").post(f"{API}/events/apply", json=body)

    assert answer.status_code == status
    assert told in answer.json()["detail"]


def test_an_event_that_is_not_there_is_not_found_and_no_path_is_one(engineer):
    for path in ("events/none", "events/none/leaderboard", "events/none/objection"):
        assert engineer.get(f"{API}/{path}").status_code == 404
    assert engineer.get(f"{API}/events/..%2Fx").status_code in {400, 404}
    assert engineer.get(f"{API}/events/A").status_code == 400


def test_whoever_asks_is_told_when_an_event_takes_something_of_theirs(login):
    text = SMALL + "opens_at = 2027-01-01T00:00:00Z\nparticipants = ['engineer']"
    assert apply(login("chief", "admin"), text).status_code == 200

    told = login("engineer").get(f"{API}/events/sp500/objection").json()["objection"]
    assert "opens at 2027-01-01 00:00 UTC" in told
    assert "does not take part" in login("x").get(f"{API}/events/sp500/objection").text
    assert login("x").get(f"{API}/events/default/objection").json()["objection"] is None


def test_everybody_sees_the_board_and_every_verdict_that_was_told(login, world, engineer):
    world.now = NOW
    world.keeper.set_baseline("default", "flat", by="chief")
    world.arrive("s-1", build_net(2), user="ann")
    world.arrive("s-2", None, user="ben")

    board = login("stranger").get(f"{API}/events/default/leaderboard").json()

    names = [(row["name"], row["rank"], row["n"]) for row in board["rows"]]
    # Equal scores, and the references have no time.
    assert sorted(names[:3]) == [("flat", 1, None), ("index", 1, None), ("s-1", 1, 1)]
    assert names[3] == ("s-2", None, None)
    found = engineer.get(f"{API}/verdicts", params={"submission": ["s-2", "s-1", "s-9"]}).json()
    assert [row["name"] for row in found["rows"]] == ["s-2", "s-1"]
    assert found["missing"] == ["s-9"]
    assert [each["phase"] for each in found["rows"][1]["history"]] == ["arrival"]
    assert engineer.get(f"{API}/verdicts", params={"submission": ["../x"]}).status_code == 400


def test_one_entry_that_makes_no_sense_leaves_the_rest_of_the_board(engineer, world, settings):
    world.keeper.set_baseline("default", "flat", by="chief")
    world.arrive("s-1", build_net(2))
    world.records.put_stored(
        settings.events_table, {"event": "default", "entry": "entry:odd:1", "user": 5}
    )

    board = engineer.get(f"{API}/events/default/leaderboard").json()

    assert "s-1" in [row["name"] for row in board["rows"]]
    assert board["unreadable"] == ["entry:odd:1"]


@pytest.fixture
def board(world):
    """A function that enters submissions of these scores into an event; it returns all names."""

    def fill(scores):
        for number, score in enumerate(scores):
            world.now = NOW + timedelta(seconds=number)
            entry = world.arrive(f"s-{number}", build_net(2) if score is not None else None)
            world.events.change_entry(entry, lambda e, score=score: e.change(score=score))
        event = world.events.get_event("default")
        return build_board(event, world.events.list_entries("default").records)["rows"]

    world.keeper.set_baseline("default", "flat", by="chief")
    return fill


@pytest.mark.parametrize("limit", [1, 2, 5, 500])
def test_pages_of_a_board_add_up_to_the_whole_of_it(engineer, board, limit):
    whole = board([0.25, None, 0.25, 0.25 + 1e-12, -0.5, None, 0.0])
    rows, first = [], 1
    while first is not None:
        query = {"first": first, "limit": limit}
        page = engineer.get(f"{API}/events/default/leaderboard", params=query).json()
        assert page["count"] == len(whole) == 9
        assert len(page["rows"]) <= limit
        rows += page["rows"]
        first = page["next"]

    assert rows == whole
    assert [row["rank"] for row in rows][-2:] == [None, None]
    assert all(row["reason"] for row in rows[-2:])
    assert all(row["n"] is not None for row in rows if row["p"] is not None)


@pytest.mark.parametrize("query", [{"first": 0}, {"limit": 0}, {"limit": 501}, {"first": "x"}])
def test_no_other_piece_of_a_board_is_given(engineer, query):
    answer = engineer.get(f"{API}/events/default/leaderboard", params=query)
    assert answer.status_code == 422
    assert answer.json()["field"] == next(iter(query))


def test_behind_the_end_of_a_board_is_nothing(engineer, board):
    board([0.5])
    query = {"first": 4}
    page = engineer.get(f"{API}/events/default/leaderboard", params=query).json()
    assert (page["rows"], page["count"], page["next"]) == ([], 3, None)


def test_a_row_that_makes_no_sense_keeps_its_place_on_every_page(engineer, board, world, settings):
    whole = board([0.1, 0.2, 0.3])
    (key,) = (e.entry for e in world.events.list_entries("default", submission_id="s-1").records)
    stored = world.records.get_stored(settings.events_table, "default", key)
    world.records.put_stored(settings.events_table, stored | {"net_sharpe": "much"})

    pages = [
        engineer.get(f"{API}/events/default/leaderboard", params={"first": f, "limit": 2}).json()
        for f in (1, 3, 5)
    ]

    rows = [row for page in pages for row in page["rows"]]
    assert [row["name"] for row in rows] == [r["name"] for r in whole if r["name"] != "s-1"]
    assert [row["rank"] for row in rows] == [r["rank"] for r in whole if r["name"] != "s-1"]
    place = [row["name"] for row in whole].index("s-1") // 2
    assert [page["unreadable"] for page in pages] == [[key] if n == place else [] for n in range(3)]


def test_of_what_a_page_does_not_show_only_the_places_are_read(engineer, board, records):
    board([0.1 * number for number in range(9)])
    seen = []
    find_many = records._find_many
    records._find_many = lambda table, keys, *more: (
        seen.append([*keys]) or find_many(table, seen[-1], *more)
    )

    engineer.get(f"{API}/events/default/leaderboard", params={"limit": 2})

    assert [[key.split(":")[1] for _, key in keys] for keys in seen] == [["s-8", "s-7"]]
