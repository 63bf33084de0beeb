"""Who did what, as the API answers it, and from which door it says that it came."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import pytest
from fastapi import Depends

from fakes.api import NOW
from fakes.pools import FakePools
from fakes.submissions import build_submission
from touchstone.core.answers.acts import Ended
from touchstone.core.records.actions import Action
from touchstone.services.cancel import retract_submission
from touchstone.stores.records import RecordStore
from touchstone.ui import dependencies
from touchstone.ui.app import build_app
from touchstone.ui.dependencies import get_acting_records
from touchstone.ui.routes.fleet import get_pools

AUDIT = "/api/v1/audit"


@pytest.fixture
def admin(login):
    return login("chief", "admin")


def ask(client, path=AUDIT, **query):
    answer = client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def act(records, number=0, **changes):
    told = {"at": NOW + timedelta(seconds=number), "by": "engineer", "action": f"act {number}"}
    action = Action(**(told | changes))
    records.change_submission(
        "s-1", lambda found: found.note_action(at=action.at, by=action.by, action=action.action)
    )


@pytest.mark.parametrize(("role", "status"), [("viewer", 403), ("user", 403), ("op", 200)])
def test_all_acts_are_for_admins(login, role, status):
    assert login(role=role).get(AUDIT).status_code == status


@pytest.mark.parametrize(
    ("agent", "door"),
    [("touchstone-cli", "CLI"), ("touchstone-client", "API"), ("curl/8", "API"), ("", "API")],
)
def test_a_pause_is_in_the_audit_with_its_door(admin, app, agent, door):
    app.dependency_overrides[get_pools] = FakePools
    body = {"reason": "moving"}
    admin.post("/api/v1/placements/pause", json=body, headers={"User-Agent": agent})

    assert ask(admin) == {
        "acts": [
            {
                "at": NOW.isoformat(),
                "by": "chief",
                "door": door,
                "kind": "installation",
                "name": "",
                "action": "pause: moving",
            }
        ],
        "unreadable": 0,
        "next": None,
    }


def test_a_repeated_request_is_one_act(admin, app):
    app.dependency_overrides[get_pools] = FakePools
    for _ in range(3):
        admin.post("/api/v1/placements/pause", json={"reason": "moving"})

    assert len(ask(admin)["acts"]) == 1


def test_acts_on_fleet_and_events_are_there_too(admin, app, records):
    pools = FakePools()
    pools.create_pool("rio", 2, "")
    pools.create_pool("rio_validation", 1, "")
    app.dependency_overrides[get_pools] = lambda: pools
    from fakes.servers import store_server

    store_server(records, {"server": "rio", "heartbeat_at": NOW.isoformat()})
    admin.post("/api/v1/servers/rio/drain", json={})
    text = 'schema_version = 1\ntitle = "Sharpe"\n'
    admin.post("/api/v1/events/apply", json={"name": "spring", "text": text})

    told = {(each["kind"], each["name"], each["action"]) for each in ask(admin)["acts"]}

    assert ("event", "spring", "event apply") in told
    assert {("server", "rio")} < {(kind, name) for kind, name, _ in told}


def test_a_retraction_through_the_api_has_its_door(login, app, records, make_submission):
    make_submission(status="success")

    class Service:
        """Ends what is under way, of which there is nothing here."""

        def __init__(self, acting):
            self._records = acting

        def retract(self, submission_id, *, by):
            return retract_submission(
                submission_id, by=by, records=self._records, agent=object(), end_runs=list
            )

    def build(acting: Annotated[RecordStore, Depends(get_acting_records)]):
        return Service(acting)

    app.dependency_overrides[dependencies.get_cancel_service] = build
    engineer = login()
    engineer.post("/api/v1/submissions/s-1/retract", json={})

    (found,) = ask(engineer, "/api/v1/submissions/s-1/audit")["acts"]
    assert (found["action"], found["by"], found["door"]) == ("retracted", "engineer", "API")


def test_what_ends_before_it_is_registered_is_in_the_audit_as_well(records):
    from touchstone.services.cancel import cancel_unregistered

    ended = cancel_unregistered(
        "s-9",
        by="engineer",
        is_admin=False,
        records=records,
        find_submitter=lambda _: "engineer",
        end_runs=list,
    )
    refused = cancel_unregistered(
        "s-9",
        by="other",
        is_admin=False,
        records=records,
        find_submitter=lambda _: "engineer",
        end_runs=list,
    )

    assert (ended, refused) == (Ended(ended_runs=("s-9",)), None)
    stored = records.query_part("TouchstoneEvents", "event", "#audit")
    assert [(each["name"], each["by"]) for each in stored] == [("s-9", "engineer")]


def test_a_submissions_acts_are_its_own_and_its_owners(login, records, make_submission):
    make_submission()
    make_submission("s-2", submitted_by="other")
    act(records)
    records.change_submission(
        "s-2", lambda found: found.note_action(at=NOW, by="other", action="theirs")
    )

    acts = ask(login(), "/api/v1/submissions/s-1/audit")["acts"]

    assert [each["action"] for each in acts] == ["act 0"]
    assert login().get("/api/v1/submissions/s-2/audit").status_code == 404


def test_acts_from_before_the_audit_come_last_and_have_no_door(engineer, records, settings):
    old = {"at": "2025-01-01T00:00:00+00:00", "by": "engineer", "action": "submitted"}
    stored = build_submission("s-1", submitted_by="engineer", actions=[old]).dump()
    records.put_stored(settings.submissions_table, stored)
    for number in range(3):
        act(records, number)

    first = ask(engineer, "/api/v1/submissions/s-1/audit", limit=2)
    last = ask(engineer, "/api/v1/submissions/s-1/audit", limit=2, cursor=first["next"])

    assert [each["action"] for each in first["acts"]] == ["act 2", "act 1"]
    assert [(each["action"], each["door"]) for each in last["acts"]] == [
        ("act 0", "control plane"),
        ("submitted", None),
    ]
    assert last["next"] is None


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"cursor": "nonsense"}, 400),
        ({"cursor": "x" * 513}, 422),
        ({"limit": 0}, 422),
        ({"limit": 501}, 422),
        ({"limit": "many"}, 422),
    ],
)
@pytest.mark.parametrize("path", [AUDIT, "/api/v1/submissions/s-1/audit"])
def test_what_makes_no_sense_is_refused_by_its_name(admin, make_submission, path, query, status):
    make_submission()

    answer = admin.get(path, params=query)

    assert answer.status_code == status
    assert next(iter(query)) in answer.json().get("field", "")


def test_a_page_reads_no_more_than_it_shows(admin, records, make_submission, monkeypatch):
    make_submission()
    for number in range(30):
        act(records, number)
    read = records.list_part_newest
    limits = []

    def count(*args, **options):
        limits.append(options["limit"])
        return read(*args, **options)

    monkeypatch.setattr(records, "list_part_newest", count)
    ask(admin, limit=5)

    assert limits == [6]


def test_the_applications_tell_their_doors():
    from touchstone.core.records.audit import Door
    from touchstone.pages.app import build_app as build_pages

    assert build_pages().state.door is Door.PAGE
    assert not hasattr(build_app().state, "door")
