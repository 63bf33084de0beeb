"""RunPod's bills: whose are taken, what finding out costs, and what a death in between leaves."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import timedelta
from decimal import Decimal

import pytest

from fakes.money import FakeBudgets, FakeMeter
from fakes.money_promises import NOW, build_rental, build_scopes
from fakes.stores import FakeObjectStore, FakeRecordStore
from touchstone.core.pods import Bill
from touchstone.services.pods.billing import take_bills
from touchstone.services.pods.context import PodContext
from touchstone.services.pods.ledger import Ledger, build_limits
from touchstone.settings import Settings
from touchstone_agent.protocol.errors import TransientError

CENT = 10_000


class Account:
    """What RunPod says that pods have cost; counts how often it is asked."""

    def __init__(self) -> None:
        self.bills: dict[str, Decimal] = {}
        self.asked = 0

    async def list_bills(self):
        self.asked += 1
        return [Bill(pod_id=pod_id, usd=usd) for pod_id, usd in self.bills.items()]


class World:
    """An account, meters and budgets, and pods that are gone."""

    def __init__(self) -> None:
        self.now = NOW
        self.account, self.meter, self.budgets = Account(), FakeMeter(), FakeBudgets()
        self.ledger = Ledger(self.budgets, self.meter, build_limits(Settings()))
        self.records = FakeRecordStore()
        self.desk = PodContext(
            api=self.account,
            lister=None,
            records=self.records,
            objects=FakeObjectStore(),
            ledger=self.ledger,
            settings=Settings(),
            secret=hashlib.sha256(b"").digest(),
            api_url="",
            now=lambda: self.now,
        )

    def end_pod(self, number=0, *, cents=36):
        """Let a pod be gone that has cost so many cents, and RunPod bill one more."""
        rental = build_rental(pod=f"p{number}", pod_id=f"id{number}", task_id=f"i{number}")
        seconds = 3600 * cents / 36
        self.budgets.reserve(rental.pod, 100 * CENT, build_scopes())
        self.meter.open(rental)
        self.meter.close(rental, at=NOW + timedelta(seconds=seconds), is_useful=True)
        self.budgets.settle(rental.pod, cents * CENT)
        self.account.bills[rental.pod_id] = Decimal(cents + 1) / 100
        return rental

    def look(self) -> int:
        return asyncio.run(take_bills(self.desk))

    def spent(self, number=0) -> int:
        return self.budgets.find_reservation(f"p{number}").spent


@pytest.fixture
def world() -> World:
    return World()


def test_a_bill_is_taken_once_and_nobody_asks_again(world) -> None:
    world.end_pod()
    assert world.look() == 1
    assert world.spent() == 37 * CENT
    assert (world.look(), world.account.asked) == (0, 1)


def test_a_bill_that_was_written_but_not_booked_is_booked_by_the_next_look(
    world, monkeypatch
) -> None:
    """Its pod counted as billed from then on, and its budgets kept our own count for ever."""
    world.end_pod()
    correct = world.budgets.correct

    def fail(*_):
        raise TransientError("the table does not answer")

    monkeypatch.setattr(world.budgets, "correct", fail)
    assert world.look() == 0
    monkeypatch.setattr(world.budgets, "correct", correct)

    assert world.look() == 1
    assert world.spent() == 37 * CENT


def test_one_bill_that_cannot_be_booked_keeps_no_other_from_it(world, monkeypatch) -> None:
    for number in range(3):
        world.end_pod(number)
    correct = world.budgets.correct

    def fail(pod, actual):
        if pod == "p1":
            raise TransientError("p1")
        return correct(pod, actual)

    monkeypatch.setattr(world.budgets, "correct", fail)
    assert world.look() == 2
    assert [world.spent(number) for number in range(3)] == [37 * CENT, 36 * CENT, 37 * CENT]


def test_looking_for_bills_reads_what_waits_for_one_and_none_of_the_past(
    world, monkeypatch
) -> None:
    """It read all meters of two months, every minute."""
    for number in range(50):
        world.end_pod(number)
    world.look()
    world.now += timedelta(days=2)
    world.look()
    world.end_pod(50)
    read = []
    query = world.meter._query

    def count(*args, **kwargs):
        found = query(*args, **kwargs)
        read.extend(found)
        return found

    monkeypatch.setattr(world.meter, "_query", count)
    del world.account.bills["id50"]
    assert world.look() == 0
    assert [entry.rental.pod for entry in read] == ["p50"]


def test_pods_that_an_earlier_version_closed_are_found_once_more_a_day_later(world) -> None:
    """It marked none; and it may still close some while it is being replaced."""
    world.end_pod(0)
    world.end_pod(1)
    world.meter._marked.clear()
    world.end_pod(2)
    assert world.look() == 3

    world.end_pod(3)
    world.meter._marked.clear()
    world.now += timedelta(hours=23)
    assert world.look() == 0
    world.now += timedelta(hours=2)
    assert world.look() == 1

    world.end_pod(4)
    world.meter._marked.clear()
    world.now += timedelta(days=9)
    assert world.look() == 0, "nobody closes any without a mark any more"


def test_a_pod_of_last_month_is_still_billed_and_one_of_the_month_before_is_not(world) -> None:
    world.end_pod()
    world.now = NOW.replace(month=12, day=31)
    assert world.look() == 1
    world.end_pod(1)
    world.now = NOW.replace(year=2027, month=1, day=1)
    assert world.look() == 0
