"""The real budgets and meters keep the promises that the fakes make."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

import boto3
import pytest

from fakes.money_promises import (
    NOW,
    BudgetPromises,
    MeterPromises,
    build_rental,
    build_scopes,
    read_amounts,
)
from touchstone.core.meter import EntryKind, sum_all
from touchstone.settings import Settings
from touchstone.stores.meter import Meter
from touchstone.stores.money import Budgets, ReservationSettled
from touchstone_agent.protocol.errors import PermanentError, TransientError


class TestBudgets(BudgetPromises):
    pass


class TestMeter(MeterPromises):
    pass


def test_many_budgets_and_reservations_are_read_over_all_pages(budgets) -> None:
    scopes = build_scopes()
    for number in range(120):
        budgets.reserve(f"p{number:03}", 1, [scopes[0], scopes[2]])
    assert [each.pod for each in budgets.list_open()] == [f"p{n:03}" for n in range(120)]
    assert [each.reserved for each in budgets.read(scopes)] == [120, 0, 120]


def test_tables_that_are_missing_are_no_reason_to_try_again(dynamodb) -> None:
    settings = Settings(budgets_table="missing", meter_table="missing")
    with pytest.raises(PermanentError, match="ResourceNotFoundException"):
        Budgets(dynamodb, settings).reserve("p", 1, build_scopes())
    with pytest.raises(PermanentError, match="ResourceNotFoundException"):
        Meter(dynamodb, settings).open(build_rental())


def test_a_store_that_is_away_is_a_transient_error() -> None:
    client = boto3.client(
        "dynamodb",
        endpoint_url="http://127.0.0.1:9",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    with pytest.raises(TransientError):
        Budgets(client, Settings()).settle("p", 1)
    with pytest.raises(TransientError):
        Meter(client, Settings()).open(build_rental())


class Died(Exception):
    """The process ended."""


class MortalClient:
    """A client whose process dies at one of its writes: just before it, or just after."""

    def __init__(self, client, *, dies_at: int, is_written: bool) -> None:
        self._client = client
        self._left = dies_at
        self._is_written = is_written

    def __getattr__(self, name):
        call = getattr(self._client, name)
        return self._guard(call) if name in {"transact_write_items", "put_item"} else call

    def _guard(self, call):
        def write(**arguments):
            self._left -= 1
            if self._left < 0 and not self._is_written:
                raise Died
            answer = call(**arguments)
            if self._left < 0:
                raise Died
            return answer

        return write


def live(budgets: Budgets, meter: Meter, *, delay: float = 0) -> None:
    """Take a pod from its first reservation to RunPod's bill, the way that hooks.money tells."""
    rental, scopes = build_rental(), build_scopes(submission=100_000)
    with suppress(ReservationSettled):
        for amount in (80_000, 50_000):
            budgets.reserve(rental.pod, amount, scopes)
    meter.open(rental)
    gone_at = NOW + timedelta(seconds=100 + delay)
    closed = meter.close(rental, at=gone_at, is_useful=True)
    budgets.settle(rental.pod, closed.micros)
    billed = meter.bill(rental, at=gone_at, micros=10_500)
    budgets.correct(rental.pod, billed.micros)


@pytest.mark.parametrize("is_written", [False, True])
@pytest.mark.parametrize("dies_at", range(7))
def test_whoever_dies_at_a_write_finds_the_way_to_the_same_end(
    dynamodb, settings, dies_at, is_written
) -> None:
    client = MortalClient(dynamodb, dies_at=dies_at, is_written=is_written)
    with pytest.raises(Died):
        live(Budgets(client, settings), Meter(client, settings))
    budgets, meter = Budgets(dynamodb, settings), Meter(dynamodb, settings)
    # Somebody takes over, half a minute later; and somebody else does it all over again.
    for delay in (30, 60):
        live(budgets, meter, delay=delay)
        closed = next(e for e in meter.list_pod(build_rental().pod) if e.kind is EntryKind.CLOSED)
        assert closed.seconds == (130 if dies_at < 3 + (not is_written) else 100)
        assert read_amounts(budgets) == [(0, 10_500)] * 3
        assert sum_all(meter.list_submission("s-1"), now=NOW).micros == 10_500
        assert len(meter.list_pod(build_rental().pod)) == 3
        assert budgets.list_open() == []
