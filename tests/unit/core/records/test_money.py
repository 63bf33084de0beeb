"""Budgets and meters as the version before wrote them are read, changed and written."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from touchstone.core.meter import Entry, EntryKind, sum_all
from touchstone.core.money import Scope
from touchstone.core.records.stored import RecordUnreadable
from touchstone.settings import Settings
from touchstone.stores.meter import Meter, from_item, to_item
from touchstone.stores.money import Budgets

FOLDER = Path(__file__).parent / "stored"
ENTRIES: dict[str, dict[str, Any]] = json.loads((FOLDER / "meter.json").read_text())
RESERVATIONS: dict[str, dict[str, Any]] = json.loads((FOLDER / "reservations.json").read_text())
MARKS = {"unbilled"}
POD = "ts-s-1-i5-1-1"


class Table:
    """As much of DynamoDB as a booking or a list needs: what is there, and what was written."""

    def __init__(self, *records: dict[str, Any]) -> None:
        self.items = [to_item(record) for record in records]
        self.puts: list[dict[str, Any]] = []

    def get_item(self, *, Key: dict[str, Any], **_: object) -> dict[str, Any]:  # noqa: N803
        found = [item for item in self.items if item["scope"] == Key["scope"]]
        return {"Item": found[0]} if found else {}

    def transact_write_items(self, *, TransactItems: list[dict[str, Any]]) -> None:  # noqa: N803
        self.puts += [from_item(each["Put"]["Item"]) for each in TransactItems if "Put" in each]

    def put_item(self, **_: object) -> None:
        response = {"Error": {"Code": "ConditionalCheckFailedException"}, "Item": self.items[0]}
        raise ClientError(response, "PutItem")

    def get_paginator(self, _: str) -> Table:
        return self

    def paginate(self, **_: object) -> list[dict[str, Any]]:
        return [{"Items": self.items}]


def open_budgets(*records: dict[str, Any]) -> tuple[Budgets, Table]:
    table = Table(*records)
    return Budgets(table, Settings()), table


def open_meter(*records: dict[str, Any]) -> Meter:
    return Meter(Table(*records), Settings())


# --- what is reserved ---------------------------------------------------------------------------


def test_a_reservation_is_settled_and_nothing_else_of_its_record_changes() -> None:
    stored = RESERVATIONS["reserved"] | {"of_tomorrow": "x"}
    budgets, table = open_budgets(stored)

    budgets.settle(POD, 700_000)

    settled = stored | {"spent": 700_000, "version": 2}
    del settled["open"]
    assert table.puts == [settled]


def test_a_reservation_that_is_made_again_keeps_what_it_does_not_know() -> None:
    budgets, table = open_budgets(RESERVATIONS["reserved"] | {"of_tomorrow": "x"})

    budgets.reserve(POD, 5, [Scope(id="month:2026-12", limit=None)])

    assert table.puts == [
        RESERVATIONS["reserved"]
        | {"of_tomorrow": "x", "scopes": ["month:2026-12"], "reserved": 5, "version": 2}
    ]


def test_what_is_settled_is_corrected_and_nothing_else_of_its_record_changes() -> None:
    stored = RESERVATIONS["settled"] | {"of_tomorrow": "x"}
    budgets, table = open_budgets(stored)

    budgets.correct(POD, 689_000)

    assert table.puts == [stored | {"spent": 689_000, "version": 3}]


def test_a_new_reservation_is_stored_as_it_always_was() -> None:
    budgets, table = open_budgets()
    stored = RESERVATIONS["reserved"]

    budgets.reserve(POD, 812_345, [Scope(id=each, limit=None) for each in stored["scopes"]])
    budgets.settle("ts-never-rented", 0)

    assert table.puts == [stored, RESERVATIONS["closed unreserved"]]


@pytest.mark.parametrize(
    ("odd", "told"),
    [({"reserved": "much"}, "reserved: "), ({"reserved": -1}, "less than nothing")],
)
def test_a_reservation_that_makes_no_sense_is_not_taken_for_none(odd, told, caplog) -> None:
    budgets, table = open_budgets(
        RESERVATIONS["reserved"] | odd, RESERVATIONS["reserved"] | {"scope": "pod:other"}
    )

    for step in (lambda: budgets.reserve(POD, 5, []), lambda: budgets.settle(POD, 0)):
        with pytest.raises(RecordUnreadable, match=f"the money of pod {POD}: .*{told}"):
            step()

    assert table.puts == []
    assert [each.pod for each in budgets.list_open()] == ["other"]
    assert f"the money of pod {POD}" in caplog.text


# --- what pods have cost ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EntryKind)
def test_an_entry_of_a_meter_is_read_and_written_as_it_is_stored(kind) -> None:
    stored = ENTRIES[kind]
    (entry,) = open_meter(stored).list_pod(POD)

    assert entry.dump() == {name: stored[name] for name in stored.keys() - MARKS}
    assert json.loads(json.dumps(entry.dump())) == entry.dump()


def test_whoever_writes_again_gets_what_stands_there() -> None:
    closed = Entry.load(ENTRIES[EntryKind.CLOSED])

    found = open_meter(ENTRIES[EntryKind.CLOSED]).close(
        closed.rental, at=closed.at + timedelta(hours=5), is_useful=False
    )

    assert found == closed


def test_the_meter_of_a_pod_says_what_it_always_said() -> None:
    entries = open_meter(*ENTRIES.values()).list_pod(POD)

    spend = sum_all(entries, now=entries[0].at)
    assert (spend.seconds, spend.micros, spend.useful_micros) == (3600, 789_000, 789_000)


def test_no_sum_is_made_without_an_entry_that_makes_no_sense_and_the_others_are_billed(caplog):
    closed = ENTRIES[EntryKind.CLOSED]
    odd = closed | {"pod": "odd", "price_per_hour": "cheap"}
    meter = open_meter(odd, closed)

    for add_up in (
        lambda: meter.list_pod("odd"),
        lambda: meter.list_month("2026-11"),
        lambda: meter.list_submission("s-1"),
    ):
        with pytest.raises(RecordUnreadable, match=r"of pod odd: .*rental\.price_per_hour"):
            add_up()

    since = Entry.load(closed).at
    assert [each.rental.pod for each in meter.list_unbilled(since)] == [POD]
    assert "2-closed#abc123 of pod odd" in caplog.text
