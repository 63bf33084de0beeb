from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fakes.api import NOW
from fakes.pools import FakePools
from fakes.servers import read_fields, store_server
from fakes.stores import FakeObjectStore, FakeRecordStore
from touchstone.core.queue import QUEUE_KEY, Queue
from touchstone.settings import Settings
from touchstone.ui import dependencies
from touchstone.ui.routes.fleet import get_pools

FILE = "schema_version = 1\n[servers.rio]\nslots = 2\nvalidation_slots = 3\n"
CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("fleet/apply", {"text": FILE}),
    ("fleet/reload", {}),
    ("servers/rio/drain", {}),
    ("servers/rio/attach", {"slots": 1}),
    ("servers/rio/slots", {"slots": 1}),
    ("placements/pause", {"reason": "move"}),
    ("placements/resume", {}),
]


@pytest.fixture
def pools(app: FastAPI) -> FakePools:
    pools = FakePools()
    app.dependency_overrides[get_pools] = lambda: pools
    return pools


@pytest.fixture
def admin(login: Callable[..., TestClient], pools: FakePools) -> TestClient:
    return login("chief", "admin")


@pytest.fixture
def rio(records: FakeRecordStore, pools: FakePools) -> None:
    store_server(
        records,
        {
            "server": "rio",
            "heartbeat_at": NOW.isoformat(),
            "inventory": {
                "slots": 2,
                "validation_slots": 3,
                "memory_mib": 1024,
                "gpus": [{"name": "RTX 3090", "memory_mib": 24 * 1024}] * 2,
            },
        },
    )


def post(client: TestClient, path: str, **body: Any) -> Any:
    return client.post(f"/api/v1/{path}", json=body)


@pytest.mark.usefixtures("rio")
@pytest.mark.parametrize("role", ["viewer", "user"])
def test_servers_are_shown_to_those_who_may_edit_pools(
    login: Callable[..., TestClient], pools: FakePools, role: str
) -> None:
    assert login(role=role).get("/api/v1/fleet").status_code == 403
    assert post(login(role=role), "fleet/check", text=FILE).status_code == 403


@pytest.mark.usefixtures("rio")
@pytest.mark.parametrize(("path", "body"), CHANGES)
@pytest.mark.parametrize("role", ["viewer", "user"])
def test_only_those_who_may_edit_pools_change_anything(
    login: Callable[..., TestClient],
    pools: FakePools,
    records: FakeRecordStore,
    path: str,
    body: dict[str, Any],
    role: str,
) -> None:
    before = records.list_servers()
    answer = post(login(role=role), path, **body)
    assert answer.status_code == 403
    assert pools.slots() == {}
    assert records.list_servers() == before


@pytest.mark.usefixtures("rio")
@pytest.mark.parametrize(("path", "body"), [*CHANGES, ("fleet/check", {"text": FILE})])
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_a_page_elsewhere_cannot_change_anything_with_a_form(
    admin: TestClient, pools: FakePools, path: str, body: dict[str, Any], kind: str
) -> None:
    answer = admin.post(f"/api/v1/{path}", content=b"{}", headers={"Content-Type": kind})
    assert answer.status_code == 415
    assert pools.slots() == {}


@pytest.mark.usefixtures("rio")
def test_what_a_check_foretells_is_what_applying_does(
    login: Callable[..., TestClient], pools: FakePools, records: FakeRecordStore
) -> None:
    checked = post(login("chief", "admin"), "fleet/check", text=FILE)
    assert checked.status_code == 200
    assert checked.json()["declared"] == ["rio"]
    assert pools.slots() == {}

    applied = post(login("chief", "admin"), "fleet/apply", text=FILE)

    assert applied.json() == checked.json() | {"is_applied": True}
    assert pools.slots()["rio"] == 2
    record = read_fields(records, "rio")
    assert record["actions"] == [{"at": NOW.isoformat(), "by": "chief", "action": "fleet apply"}]


@pytest.mark.parametrize("path", ["fleet/check", "fleet/apply"])
@pytest.mark.parametrize(
    ("text", "field"),
    [
        (FILE.replace("slots = 2", "slots = -2", 1), "servers.rio.slots"),
        ("schema_version = 2", "schema_version"),
        ("schema_version = 1\n[servers.rio-1]\nslot = 1", "servers.rio-1.slot"),
    ],
)
def test_a_wrong_file_is_refused_with_its_field(
    admin: TestClient, pools: FakePools, path: str, text: str, field: str
) -> None:
    answer = post(admin, path, text=text)
    assert answer.status_code == 400
    assert answer.json()["field"] == field
    assert pools.slots() == {}


@pytest.mark.usefixtures("rio")
def test_a_file_with_too_many_slots_is_applied_not_at_all(
    admin: TestClient, pools: FakePools
) -> None:
    text = FILE.replace("slots = 2", "slots = 3", 1)
    assert post(admin, "fleet/check", text=text).json()["refused"]
    answer = post(admin, "fleet/apply", text=text)
    assert answer.status_code == 400
    assert answer.json()["field"] == "servers.rio.slots"
    assert pools.slots() == {}


@pytest.mark.parametrize(
    "body", [{}, {"text": 3}, {"text": FILE, "by": "x"}, {"text": "x" * 2**21}]
)
def test_a_body_that_is_not_a_file_is_refused(admin: TestClient, body: dict[str, Any]) -> None:
    assert post(admin, "fleet/apply", **body).status_code == 422


def test_reloading_applies_the_installations_own_file(
    app: FastAPI, admin: TestClient, rio: None, pools: FakePools, tmp_path: Path
) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(FILE)
    app.dependency_overrides[dependencies.read_settings] = lambda: Settings(fleet_file=file)
    assert post(admin, "fleet/reload").json()["is_applied"]
    assert pools.slots()["rio"] == 2
    file.unlink()
    answer = post(admin, "fleet/reload")
    assert answer.status_code == 400
    assert "there is no fleet file" in answer.json()["detail"]


@pytest.mark.usefixtures("rio")
def test_a_server_is_drained_and_attached(
    admin: TestClient, pools: FakePools, records: FakeRecordStore
) -> None:
    post(admin, "fleet/apply", text=FILE)
    pools.edit("rio", deferred=1)

    drained = post(admin, "servers/rio/drain").json()

    assert drained["in_use"] == 1
    assert drained["drained"]["slots"] == 2
    assert pools.slots()["rio"] == 0
    [row] = admin.get("/api/v1/fleet").json()["servers"]
    assert row["drained"]["by"] == "chief"
    assert post(admin, "servers/rio/attach", slots=None).json()["slots"] == 2
    assert pools.slots()["rio"] == 2


@pytest.mark.usefixtures("rio")
@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("servers/rip/drain", {}, 404, "enrolled are: rio"),
        ("servers/rip/attach", {}, 404, "enrolled are: rio"),
        ("servers/%23control/drain", {}, 404, "enrolled are: rio"),
        ("servers/..%2Frio/drain", {}, 404, ""),
        ("servers/rio/attach", {}, 400, "rio is not drained"),
        ("servers/rio/attach", {"slots": 3}, 400, "at most 2"),
        ("servers/rio/attach", {"slots": 0}, 400, "takes them away"),
        ("servers/rio/attach", {"slots": "2"}, 422, ""),
        ("servers/rio/attach", {"slots": 2**40}, 422, ""),
        ("servers/rio/attach", {"slot": 2}, 422, ""),
        ("servers/rio/drain", {"now": True}, 422, ""),
        ("placements/pause", {"reason": "x" * 501}, 422, ""),
    ],
)
def test_what_cannot_be_done_is_said_in_words(
    admin: TestClient, pools: FakePools, path: str, body: dict[str, Any], status: int, said: str
) -> None:
    post(admin, "fleet/apply", text=FILE)
    answer = post(admin, path, **body)
    assert answer.status_code == status
    assert said in answer.json()["detail"]
    assert pools.changes == []


def test_draining_a_server_whose_pool_is_gone_says_so(
    admin: TestClient, rio: None, pools: FakePools
) -> None:
    answer = post(admin, "servers/rio/drain")
    assert answer.status_code == 400
    assert "rio has no pool rio" in answer.json()["detail"]


def test_placements_are_paused_and_resumed_for_everybody_to_see(
    login: Callable[..., TestClient], admin: TestClient
) -> None:
    paused = post(admin, "placements/pause", reason="move")
    assert paused.json() == {
        "paused": True,
        "by": "chief",
        "at": NOW.isoformat(),
        "reason": "move",
    }
    assert login("chief", "admin").get("/api/v1/fleet").json()["placements"] == paused.json()
    assert post(login("chief", "admin"), "placements/resume").json()["paused"] is False


@pytest.mark.usefixtures("rio")
def test_what_the_dispatcher_leaves_undone_is_shown_to_admins_and_to_nobody_else(
    admin: TestClient,
    login: Callable[..., TestClient],
    objects: FakeObjectStore,
    settings: Settings,
) -> None:
    trouble = {
        "what": "place",
        "items": 2,
        "times": 9,
        "item": "s-1/i5",
        "reason": "odd",
        "at": NOW.isoformat(),
    }
    server = {
        "name": "rio",
        "platform": "on-prem",
        "is_alive": True,
        "slots": 2,
        "free": 0,
        "validation_slots": 3,
        "validation_free": 3,
        "lingering": 1,
    }
    queue = Queue.model_validate(
        {"at": NOW, "dispatcher": "host/1", "troubles": [trouble], "servers": [server]}
    )
    objects.put(settings.content_bucket, QUEUE_KEY, queue.model_dump_json().encode())

    shown = admin.get("/api/v1/fleet").json()["dispatcher"]

    assert shown["is_alive"]
    assert [item["item"] for item in shown["troubles"]] == ["s-1/i5"]
    assert shown["lingering"] == {"rio": 1}
    assert "troubles" not in login("engineer").get("/api/v1/queue").json()


@pytest.mark.usefixtures("rio")
def test_a_dispatcher_that_is_at_work_no_more_leaves_no_old_troubles_behind(
    admin: TestClient,
) -> None:
    shown = admin.get("/api/v1/fleet").json()["dispatcher"]

    assert shown["warning"]
    assert (shown["troubles"], shown["lingering"]) == ([], {})


# --- slots, and what a server does ----------------------------------------------------------------


@pytest.mark.usefixtures("rio")
def test_slots_are_changed_in_the_pools_and_noted(
    admin: TestClient, pools: FakePools, records: FakeRecordStore
) -> None:
    post(admin, "fleet/apply", text=FILE)

    answer = post(admin, "servers/rio/slots", slots=1, validation_slots=4)

    assert answer.json() == {"server": "rio", "slots": 1, "validation_slots": 4}
    assert pools.changes == [("rio", 1), ("rio_validation", 4)]
    assert read_fields(records, "rio")["actions"][-1] == {
        "at": NOW.isoformat(),
        "by": "chief",
        "action": "slots: 1 slot and 4 for validations; had 2 slots and 3 for validations",
    }
    post(admin, "servers/rio/slots", slots=1)
    assert len(read_fields(records, "rio")["actions"]) == 2, "the same again is no act"


@pytest.mark.usefixtures("rio")
@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"slots": 3}, 400, "at most 2"),
        ({"slots": -1}, 400, "at most 2"),
        ({"slots": 0}, 400, "drain it"),
        ({"slots": 2, "validation_slots": -1}, 400, "validation_slots: -1 is not in"),
        ({"slots": 2, "validation_slots": 1001}, 400, "is not in 0 to 1000"),
        ({"slots": 1, "seen": {"slots": 1, "validation_slots": 3}}, 409, "has 2 slots"),
        ({"slots": 1, "seen": {"slots": 1}}, 422, ""),
        ({"slots": True}, 422, ""),
        ({"slots": "1"}, 422, ""),
        ({"slots": 2**40}, 422, ""),
        ({}, 422, ""),
        ({"slots": 1, "by": "x"}, 422, ""),
    ],
)
def test_slots_that_cannot_be_are_refused_and_nothing_is_noted(
    admin: TestClient,
    pools: FakePools,
    records: FakeRecordStore,
    body: dict[str, Any],
    status: int,
    said: str,
) -> None:
    post(admin, "fleet/apply", text=FILE)
    answer = post(admin, "servers/rio/slots", **body)
    assert answer.status_code == status
    assert said in str(answer.json()["detail"])
    assert pools.changes == []
    assert len(read_fields(records, "rio")["actions"]) == 1


@pytest.mark.usefixtures("rio")
def test_of_two_changes_at_once_the_later_is_told(admin: TestClient, pools: FakePools) -> None:
    post(admin, "fleet/apply", text=FILE)
    real = pools.read_pools

    def read_and_be_overtaken() -> Any:
        found = real()
        pools.edit("rio", slots=0)
        return found

    pools.read_pools = read_and_be_overtaken  # type: ignore[method-assign]
    answer = post(admin, "servers/rio/slots", slots=1)
    assert answer.status_code == 409
    assert answer.json()["field"] == "slots"
    assert pools.slots()["rio"] == 0


@pytest.mark.usefixtures("rio")
def test_a_drained_server_is_attached_and_not_edited(admin: TestClient, pools: FakePools) -> None:
    post(admin, "fleet/apply", text=FILE)
    post(admin, "servers/rio/drain")
    answer = post(admin, "servers/rio/slots", slots=1)
    assert answer.status_code == 400
    assert "attach it" in answer.json()["detail"]
    assert pools.slots()["rio"] == 0


@pytest.mark.usefixtures("rio")
def test_the_work_of_a_server_is_what_a_drain_lets_go_on(
    admin: TestClient,
    pools: FakePools,
    make_task: Callable[..., None],
) -> None:
    post(admin, "fleet/apply", text=FILE)
    pools.edit("rio", deferred=1)
    make_task(server="rio", percent=40, eta_seconds=60, last_event_at=NOW.isoformat())
    make_task(task_id="i20", server="elsewhere")

    work = admin.get("/api/v1/servers/rio/work").json()

    assert (work["slots"], work["in_use"], work["is_drained"]) == (2, 1, False)
    (task,) = work["tasks"]
    assert (task["submission_id"], task["task_id"], task["percent"]) == ("s-1", "i5", 40)
    assert task["ends_at"].startswith("2026-03-01T12:01:00")
    post(admin, "servers/rio/drain")
    drained = admin.get("/api/v1/servers/rio/work").json()
    assert (drained["is_drained"], drained["kept_slots"], drained["slots"]) == (True, 2, 0)


@pytest.mark.usefixtures("rio")
@pytest.mark.parametrize("name", ["rip", "%23control", "x" * 4096, "%3Cb%3E"])
def test_the_work_of_no_server_is_not_there(admin: TestClient, name: str) -> None:
    assert admin.get(f"/api/v1/servers/{name}/work").status_code == 404
    assert post(admin, f"servers/{name}/slots", slots=1).status_code == 404
