"""A server's page: what runs there, what a drain would do, and its slots."""

from __future__ import annotations

import pytest

from fakes.api import NOW
from fakes.outline import assert_harmless, look
from fakes.servers import read_fields, store_server

OURS = {"Sec-Fetch-Site": "same-origin"}
XSS = "<script>alert(1)</script>"


@pytest.fixture(autouse=True)
def rio(records, pools):
    inventory = {
        "slots": 2,
        "validation_slots": 3,
        "memory_mib": 1024,
        "gpus": [{"name": "RTX 3090", "memory_mib": 24 * 1024}] * 2,
    }
    store_server(
        records, {"server": "rio", "heartbeat_at": NOW.isoformat(), "inventory": inventory}
    )
    pools.create_pool("rio", 2, "")
    pools.create_pool("rio_validation", 3, "")


def post(client, act, **fields):
    return client.post(
        f"/fleet/servers/rio/{act}", data=fields, headers=OURS, follow_redirects=False
    )


def open_form(client, act="slots"):
    return dict(look(client.get("/fleet/servers/rio")).forms[f"/fleet/servers/rio/{act}"])


def test_a_drain_is_told_first_with_what_runs_and_until_when(admin, pools, make_task):
    make_task(server="rio", percent=40, eta_seconds=60, last_event_at=NOW.isoformat())
    pools.edit("rio", deferred=1)

    answer = admin.get("/fleet/servers/rio")

    assert "/submissions/s-1" in look(answer).links()
    assert "in 1 min" in answer.text
    assert "1 of what runs goes on to the end" in answer.text
    assert pools.changes == [], "looking changes nothing"
    drained = post(admin, "drain")
    assert (drained.status_code, drained.headers["location"]) == (303, "/fleet/servers/rio")
    assert pools.slots() == {"rio": 0, "rio_validation": 0}
    assert "attaching gives it 2 slots and 3 for validations again" in (
        admin.get("/fleet/servers/rio").text
    )


def test_a_drained_server_is_attached_with_what_it_had_or_with_others(admin, pools):
    post(admin, "drain")
    assert post(admin, "attach", slots="1").status_code == 303
    assert pools.slots() == {"rio": 1, "rio_validation": 3}
    post(admin, "drain")
    assert post(admin, "attach", slots="").status_code == 303
    assert pools.slots() == {"rio": 1, "rio_validation": 3}


def test_slots_are_edited_and_noted(admin, pools, records):
    fields = open_form(admin) | {"slots": "1"}

    assert post(admin, "slots", **fields).status_code == 303

    assert pools.slots() == {"rio": 1, "rio_validation": 3}
    assert read_fields(records, "rio")["actions"][-1]["by"] == "chief"
    assert open_form(admin)["slots"] == "1"


def test_who_edits_what_another_has_changed_sees_that_first(admin, pools):
    fields = open_form(admin) | {"slots": "2", "validation_slots": "1"}
    pools.edit("rio", slots=1)

    answer = post(admin, "slots", **fields)

    assert_harmless(answer, status=409)
    assert "has 1 slot and 3 for validations by now" in answer.text
    assert dict(look(answer).forms["/fleet/servers/rio/slots"])["slots"] == "1"
    assert pools.changes == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("slots", "3"),
        ("slots", "0"),
        ("slots", ""),
        ("slots", "1.5"),
        ("slots", XSS),
        ("slots", "9" * 4096),
        ("slots", "\u0661"),
        ("slots", "1\u202e"),
        ("slots", "1\x00"),
        ("validation_slots", "-1"),
        ("validation_slots", "1001"),
    ],
)
def test_what_is_wrong_stands_beside_its_field(admin, pools, field, value):
    answer = post(admin, "slots", **(open_form(admin) | {field: value}))

    assert_harmless(answer, status=422)
    assert f'id="{field}-error"' in answer.text
    assert pools.changes == []


def test_a_form_that_is_not_whole_changes_nothing(admin, pools):
    answer = post(admin, "slots", slots="1", validation_slots="1")

    assert_harmless(answer, status=422)
    assert pools.changes == []


@pytest.mark.parametrize("value", ["5", "0", XSS])
def test_an_attach_with_slots_that_cannot_be_is_refused_beside_the_field(admin, pools, value):
    post(admin, "drain")

    answer = post(admin, "attach", slots=value)

    assert_harmless(answer, status=422)
    assert 'id="slots-error"' in answer.text
    assert pools.slots() == {"rio": 0, "rio_validation": 0}


@pytest.mark.parametrize("act", ["slots", "drain", "attach"])
@pytest.mark.parametrize("role", ["viewer", "user"])
def test_a_server_is_for_admins(login, pools, role, act):
    client = login(role=role)

    assert client.get("/fleet/servers/rio").status_code == 403
    assert post(client, act, slots="1").status_code == 403
    assert pools.changes == []


@pytest.mark.parametrize("name", ["rip", "%3Cscript%3E", "x" * 4096, "%23control"])
def test_no_server_of_that_name_is_not_found(admin, name):
    assert_harmless(admin.get(f"/fleet/servers/{name}"), status=404)
