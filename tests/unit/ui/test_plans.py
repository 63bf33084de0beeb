"""Plans by the API: who may ask, what is refused by which field, and that nothing changes."""

from __future__ import annotations

import copy
import threading
from datetime import timedelta

import pytest

from fakes.api import NOW
from touchstone.services import planning
from touchstone.services.planning import MAX_PLANNED

PATH = "/api/v1/plans"


def ask(client, *ids, **schedule):
    return client.post(
        PATH, json={"submissions": ids or ["s-1"], "schedule": {"intervals": "5"} | schedule}
    )


def test_a_plan_says_where_when_and_for_how_much(engineer, accepted, see_fleet):
    accepted()

    answer = ask(engineer, intervals="1,5,20", seed=3)

    assert answer.status_code == 200
    plan = answer.json()
    assert [(task["task_id"], task["place"], task["seed"]) for task in plan["tasks"]] == [
        ("i1", "rio", 3),
        ("i5", "rio", 3),
        ("i20", None, 3),
    ]
    last = plan["tasks"][2]
    assert last["reason"] == "rio is full"
    assert last["start_p50"] > NOW.isoformat()
    assert (plan["usd_low"], plan["usd_high"]) == (None, None)
    assert "rio: it gives no GPU" in plan["price_reason"]


def test_a_plan_changes_nothing(engineer, accepted, see_fleet, records, objects):
    accepted()
    before = copy.deepcopy((records.__dict__.get("_tables"), objects.objects))

    assert ask(engineer).status_code == 200

    assert (records.__dict__.get("_tables"), objects.objects) == before
    assert records.get_submission("s-1").status == "accepted"
    assert list(records.list_tasks("s-1")) == []


def test_without_a_dispatcher_the_plan_says_so(engineer, accepted, see_fleet):
    accepted()
    see_fleet(at=NOW - timedelta(minutes=5))

    (task,) = ask(engineer).json()["tasks"]

    assert task["place"] is None
    assert "no dispatcher is at work" in task["reason"]
    assert task["start_p50"] is None


@pytest.mark.parametrize(
    ("schedule", "field"),
    [
        ({"intervals": "0"}, "intervals"),
        ({"intervals": None}, "intervals"),
        ({"seed": -1}, "seed"),
        ({"config_overrides": ["nonsense"]}, "config_overrides"),
        ({"branch": "main"}, "branch"),
        ({"baseline": "none-1"}, "baseline"),
        ({"event": "nowhere"}, "event"),
        ({"require_cuda": True}, "require_cuda"),
        ({"allowed_hosts": ["gone"]}, "allowed_hosts"),
        ({"platform": "runpod"}, "platform"),
        ({"source": "https://example.org/x.git"}, "source"),
        ({"submission_id": "s-2"}, "submission_id"),
        ({"<b>": 1}, None),
    ],
)
def test_what_scheduling_would_refuse_is_refused_by_its_field(
    engineer, accepted, see_fleet, schedule, field
):
    accepted()

    answer = ask(engineer, **schedule)

    assert answer.status_code == 400
    assert answer.json().get("field") == field


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "running"},
        {"status": "validating", "accepted_at": None},
        {"status": "retracted"},
        {"replay_of": "s-0/i5"},
    ],
)
def test_what_cannot_be_scheduled_now_has_no_plan(engineer, accepted, see_fleet, fields):
    accepted(**fields)

    answer = ask(engineer)

    assert (answer.status_code, answer.json()["field"]) == (400, "submission_id")


def test_somebody_elses_submission_is_as_if_it_did_not_exist(login, accepted, see_fleet):
    accepted()

    foreign, missing = ask(login("other")), ask(login("other"), "s-2")

    assert foreign.status_code == missing.status_code == 404
    told = missing.json()["detail"].replace("s-2", "s-1")
    assert foreign.json() == missing.json() | {"detail": told}


def test_one_foreign_submission_among_ones_own_is_refused(login, accepted, see_fleet):
    accepted()
    accepted("s-2", submitted_by="other")

    assert ask(login(), "s-1", "s-2").status_code == 404


def test_several_submissions_are_planned_together(engineer, accepted, see_fleet):
    ids = [accepted(f"s-{number}") for number in range(1, 4)]

    tasks = ask(engineer, *ids).json()["tasks"]

    assert [task["submission_id"] for task in tasks] == ids
    assert [task["place"] for task in tasks].count("rio") == 2


def test_a_viewer_plans_nothing(login, accepted, see_fleet):
    accepted()
    assert ask(login(role="viewer")).status_code == 403


def test_a_plan_is_asked_for_as_json(engineer, accepted, see_fleet):
    accepted()
    answer = engineer.post(PATH, content=b"{}", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"submissions": [], "schedule": {}},
        {"submissions": ["s-1"] * (MAX_PLANNED + 1), "schedule": {}},
        {"submissions": ["s" * 200], "schedule": {}},
        {"submissions": "s-1", "schedule": {}},
        {"submissions": ["s-1"], "schedule": []},
        {"submissions": ["s-1"], "schedule": {f"k{n}": 1 for n in range(100)}},
        {"submissions": ["s-1"], "schedule": {}, "more": 1},
    ],
)
def test_a_body_of_another_shape_is_refused(engineer, body):
    assert engineer.post(PATH, json=body).status_code == 422


def test_more_plans_at_a_time_than_are_made_are_put_off(engineer, accepted, see_fleet, monkeypatch):
    accepted()
    monkeypatch.setattr(planning, "_TURNS", threading.BoundedSemaphore(1))
    asked = []
    plan = planning.plan_schedule

    def plan_and_ask(*arguments, **options):
        asked.append(ask(engineer))
        return plan(*arguments, **options)

    monkeypatch.setattr(planning, "plan_schedule", plan_and_ask)

    assert ask(engineer).status_code == 200
    (other,) = asked
    assert (other.status_code, other.headers["Retry-After"]) == (429, "1")
    assert "plans are being made" in other.json()["detail"]
    monkeypatch.setattr(planning, "plan_schedule", plan)
    assert ask(engineer).status_code == 200, "the turn was given back"
