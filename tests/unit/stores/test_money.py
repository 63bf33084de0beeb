"""Budgets and meters in memory keep the promises of the real ones; what only a stub provokes."""

from __future__ import annotations

import inspect
from unittest.mock import Mock

import pytest
from botocore.exceptions import ClientError

from fakes.money import FakeBudgets, FakeMeter
from fakes.money_promises import BudgetPromises, MeterPromises, build_scopes
from touchstone.settings import Settings
from touchstone.stores.meter import Meter, to_item
from touchstone.stores.money import PATIENCE_SECONDS, Budgets, OverBudget
from touchstone_agent.protocol.errors import PermanentError, TransientError


@pytest.fixture
def budgets() -> FakeBudgets:
    return FakeBudgets()


@pytest.fixture
def meter() -> FakeMeter:
    return FakeMeter()


class TestFakeBudgets(BudgetPromises):
    pass


class TestFakeMeter(MeterPromises):
    pass


@pytest.mark.parametrize(("fake", "real"), [(FakeBudgets, Budgets), (FakeMeter, Meter)])
def test_the_fakes_share_every_method_but_those_that_use_the_client(fake, real) -> None:
    for name, member in vars(real).items():
        uses_client = inspect.isfunction(member) and "self._client." in inspect.getsource(member)
        assert not uses_client or name in vars(fake), name
        assert not uses_client or name.startswith("_"), name


def test_contention_is_tried_again_after_pauses_that_grow(budgets) -> None:
    budgets.contentions = 8
    budgets.reserve("p", 1, build_scopes())
    assert len(budgets.pauses) == 8
    assert all(0 <= pause <= 0.02 * 2**i for i, pause in enumerate(budgets.pauses))
    assert budgets.find_reservation("p").reserved == 1


class Stub:
    """A DynamoDB that says what it is told to, and a time that passes in pauses."""

    def __init__(self, *answers: dict | None) -> None:
        self.client = Mock(spec=["get_item", "transact_write_items"])
        self.client.get_item.return_value = {}
        self.client.transact_write_items.side_effect = [
            ClientError(each, "TransactWriteItems") if each else {} for each in answers
        ]
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    @property
    def budgets(self) -> Budgets:
        return Budgets(
            self.client,
            Settings(),
            clock=lambda: self.now,
            sleep=self.sleep,
            jitter=lambda: 1.0,
        )

    @property
    def tries(self) -> int:
        return self.client.transact_write_items.call_count


def cancel(*codes: str, item: dict | None = None) -> dict:
    """Return a cancelled transaction's answer: a reason for the pod, and for each budget."""
    reasons = [{"Code": code} | ({"Item": item} if item else {}) for code in codes]
    error = {"Code": "TransactionCanceledException", "Message": "cancelled"}
    return {"Error": error, "CancellationReasons": reasons}


REFUSED, NONE = "ConditionalCheckFailed", "None"


@pytest.mark.parametrize(
    "answer",
    [
        cancel(NONE, NONE, "TransactionConflict", NONE),
        cancel("TransactionConflict", NONE, NONE, NONE),
        cancel(NONE, NONE, NONE, "ThrottlingError"),
        cancel(REFUSED, NONE, NONE, NONE),
        # The reservation has changed, and with it what would have been needed of the budget.
        cancel(REFUSED, REFUSED, NONE, NONE),
        {"Error": {"Code": "TransactionInProgressException", "Message": "wait"}},
    ],
)
def test_what_others_did_meanwhile_is_decided_anew(answer) -> None:
    stub = Stub(answer, None)
    stub.budgets.reserve("p", 5, build_scopes(submission=10))
    assert stub.tries == 2
    assert stub.client.get_item.call_count == 2
    assert stub.now > 0


def test_contention_that_does_not_end_is_left_to_the_caller() -> None:
    stub = Stub(*[cancel(NONE, "TransactionConflict", NONE, NONE)] * 100)
    with pytest.raises(TransientError, match="changed by others"):
        stub.budgets.reserve("p", 5, build_scopes(submission=10))
    assert PATIENCE_SECONDS <= stub.now < PATIENCE_SECONDS + 2


def test_a_budget_refuses_even_where_another_is_contended() -> None:
    used = to_item({"scope": "submission:s-1", "used": 7, "spent": 0})
    stub = Stub(cancel(NONE, REFUSED, NONE, "TransactionConflict", item=used))
    with pytest.raises(OverBudget) as caught:
        stub.budgets.reserve("p", 5, build_scopes(submission=10))
    assert (caught.value.left, caught.value.needed) == (3, 5)
    assert stub.tries == 1


@pytest.mark.parametrize(
    "answer",
    [
        cancel("ValidationError", NONE, NONE, NONE),
        cancel(NONE, NONE, NONE, NONE),
        {"Error": {"Code": "ResourceNotFoundException", "Message": "no such table"}},
    ],
)
def test_what_no_other_try_would_change_is_raised(answer) -> None:
    stub = Stub(answer)
    with pytest.raises(PermanentError, match="booking pod p"):
        stub.budgets.reserve("p", 5, build_scopes(submission=10))
    assert stub.tries == 1


def test_a_throttled_store_is_a_transient_error() -> None:
    stub = Stub({"Error": {"Code": "ThrottlingException", "Message": "slow down"}})
    with pytest.raises(TransientError):
        stub.budgets.reserve("p", 5, build_scopes())
