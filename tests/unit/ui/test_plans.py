"""Plans by the API: who may ask, what is refused by which field, and that nothing changes."""

from __future__ import annotations

import copy
from datetime import timedelta

import pytest

from fakes.api import NOW
from fakes.servers import store_server
from fakes.submissions import build_submission
from touchstone.core.durations import Duration, DurationKey
from touchstone.core.eligibility import Capability, Resource
from touchstone.core.outlook import OUTLOOK_KEY, build_outlook
from touchstone.core.placement import Snapshot
from touchstone.services.planning import MAX_PLANNED
from touchstone_agent.protocol.messages import SlotClass

PATH = "/api/v1/plans"
HOUR = Duration(p50_seconds=3600, p90_seconds=7200)
INVENTORY = {"slots": 2, "memory_mib": 16 * 1024, "gpus": []}


@pytest.fixture
def see(objects, settings, records):
    """Return a function that publishes what a dispatcher sees."""
    store_server(records, {"server": "rio", "inventory": INVENTORY})

    def publish(*, at=NOW, free=2):
        rio = Resource(name="rio", slots=2, free=free, capability=Capability(ram_gib=16))
        snapshot = Snapshot(now=at, resources=[rio])
        known = [(DurationKey(kind=SlotClass.TRAINING), HOUR)]
        outlook = build_outlook(snapshot, stretch=1.0, durations=known)
        objects.put(settings.content_bucket, OUTLOOK_KEY, outlook.model_dump_json().encode())

    publish()
    return publish


@pytest.fixture
def accepted(records):
    def make(submission_id="s-1", **fields):
        told = {
            "status": "accepted",
            "system": "feature_set",
            "submitted_by": "engineer",
            "accepted_at": NOW.isoformat(),
            "run_ids": [submission_id],
        }
        records.create_submission(build_submission(submission_id, **(told | fields)))
        return submission_id

    return make


def ask(client, *ids, **schedule):
    return client.post(
        PATH, json={"submissions": ids or ["s-1"], "schedule": {"intervals": "5"} | schedule}
    )


def test_a_plan_says_where_when_and_for_how_much(engineer, accepted, see):
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


def test_a_plan_changes_nothing(engineer, accepted, see, records, objects):
    accepted()
    before = copy.deepcopy((records.__dict__.get("_tables"), objects.__dict__))

    assert ask(engineer).status_code == 200

    assert (records.__dict__.get("_tables"), objects.__dict__) == before
    assert records.get_submission("s-1").status == "accepted"
    assert list(records.list_tasks("s-1")) == []


def test_without_a_dispatcher_the_plan_says_so(engineer, accepted, see):
    accepted()
    see(at=NOW - timedelta(minutes=5))

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
    engineer, accepted, see, schedule, field
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
def test_what_cannot_be_scheduled_now_has_no_plan(engineer, accepted, see, fields):
    accepted(**fields)

    answer = ask(engineer)

    assert (answer.status_code, answer.json()["field"]) == (400, "submission_id")


def test_somebody_elses_submission_is_as_if_it_did_not_exist(login, accepted, see):
    accepted()

    foreign, missing = ask(login("other")), ask(login("other"), "s-2")

    assert foreign.status_code == missing.status_code == 404
    assert foreign.json() == {"detail": missing.json()["detail"].replace("s-2", "s-1")}


def test_one_foreign_submission_among_ones_own_is_refused(login, accepted, see):
    accepted()
    accepted("s-2", submitted_by="other")

    assert ask(login(), "s-1", "s-2").status_code == 404


def test_several_submissions_are_planned_together(engineer, accepted, see):
    ids = [accepted(f"s-{number}") for number in range(1, 4)]

    tasks = ask(engineer, *ids).json()["tasks"]

    assert [task["submission_id"] for task in tasks] == ids
    assert [task["place"] for task in tasks].count("rio") == 2


def test_a_viewer_plans_nothing(login, accepted, see):
    accepted()
    assert ask(login(role="viewer")).status_code == 403


def test_a_plan_is_asked_for_as_json(engineer, accepted, see):
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
