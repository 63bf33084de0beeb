"""What Airflow's home page is told: to users their own part, to admins the money as well."""

from __future__ import annotations

from decimal import Decimal

import pytest

from fakes.api import NOW
from touchstone.core.queue import QUEUE_KEY, Queue
from touchstone.core.records.notes import RentalNote
from unit.ui.pages.test_pages import build_waiting


@pytest.fixture
def publish(objects, settings, records):
    server = {
        "name": "rio",
        "platform": "on-prem",
        "is_alive": True,
        "slots": 3,
        "free": 1,
        "validation_slots": 1,
        "validation_free": 1,
    }
    places = [
        server,
        server | {"name": "oslo", "is_alive": False, "slots": 1, "free": 1},
        server | {"name": "runpod", "platform": "runpod", "slots": 9, "free": 0},
    ]
    waiting = [build_waiting(), build_waiting("s-9", submitted_by="other", position=1)]
    document = {"dispatcher": "d-1", "at": NOW.isoformat(), "waiting": waiting, "servers": places}
    text = Queue.model_validate(document).model_dump_json().encode()
    objects.put_new(settings.content_bucket, QUEUE_KEY, text)
    records.change_note(RentalNote, lambda found: found.change(balance_usd=Decimal("61.5")))


def test_figures_are_those_of_the_queue(login, publish):
    plain = login("engineer").get("/home.json").json()
    told = login("chief", "admin").get("/home.json").json()

    assert {name: value for name, value in plain.items() if name != "dispatcher"} == {
        "waiting": 2,
        "own_waiting": 1,
        "running": 2,
        "slots": 4,
        "servers": 2,
        "servers_alive": 1,
        "balance_usd": None,
    }
    assert plain["dispatcher"]["is_alive"]
    assert (told["balance_usd"], told["own_waiting"]) == ("61.50", 0)


def test_without_a_dispatcher_all_is_nothing_and_says_why(engineer):
    told = engineer.get("/home.json").json()

    assert (told["waiting"], told["slots"], told["servers"]) == (0, 0, 0)
    assert "no dispatcher has ever been at work here" in told["dispatcher"]["warning"]


def test_the_page_of_the_api_has_each_of_its_routes(engineer):
    text = engineer.get("/api").text

    assert "/api/v1/submissions/{submission_id}/schedule" in text
    assert "Idempotency-Key" in text
    assert engineer.get("/api.json").json()["openapi"].startswith("3.")
