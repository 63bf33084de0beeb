"""A thousand launches at once, by drivers that stop anywhere, and budgets that are too small."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from campaigns import ALL_CAMPAIGNS
from fakes.money_promises import build_rental
from integration.money.conftest import THREADS
from touchstone.core.meter import sum_all, sum_by
from touchstone.core.money import BudgetLimits, build_scopes, compute_worst_case
from touchstone.stores.money import Budgets, OverBudget, ReservationSettled

LAUNCHES = 1000 if ALL_CAMPAIGNS else 500
USERS = ("ann", "ann", "bob", "eve")
PRICE = Decimal("0.69")
AT = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
# The worst case of one is $1.61 to $8.51, and it costs about half: some half of them fit.
LIMITS = BudgetLimits(
    submission=Decimal(40),
    user_month=Decimal("0.6") * LAUNCHES,
    month=Decimal("1.5") * LAUNCHES,
)


def build_launch_scopes(number: int):
    user = USERS[number % len(USERS)]
    return build_scopes(LIMITS, submission_id=f"s-{number // 10}", user=user, at=AT)


ALL_SCOPES = {scope.id: scope for n in range(LAUNCHES) for scope in build_launch_scopes(n)}
WATCHED = [scope for name, scope in ALL_SCOPES.items() if not name.startswith("submission:")]


@contextmanager
def watching(look: Callable[[], None]) -> Iterator[list[int]]:
    """Look over and over from another thread; yield how often, and raise what was seen wrong."""
    looks, wrong, is_over = [0], [], threading.Event()

    def watch() -> None:
        while not is_over.is_set():
            try:
                look()
            except AssertionError as error:
                wrong.append(error)
                return
            looks[0] += 1

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield looks
    finally:
        is_over.set()
        thread.join()
    if wrong:
        raise wrong[0]


def check_limits(budgets: Budgets) -> None:
    for state in budgets.read(WATCHED):
        assert state.left is not None
        assert state.left >= 0, f"{state.scope.id} is overshot by {-state.left} micro-dollars"
        assert state.reserved >= 0
        assert state.spent >= 0


class Driver:
    """Rents pods, and now and then stops between two steps, or does a step twice."""

    def __init__(self, budgets: Budgets, meter, seed: int) -> None:
        self._budgets = budgets
        self._meter = meter
        self._random = random.Random(seed)
        self.refusals: list[OverBudget] = []
        self.refused = 0
        self.stopped = 0

    def launch(self, number: int) -> None:
        lives = self._random.randint(7200, 43_200)
        name, scopes = f"touchstone-dev-s-{number // 10}-i{number}-1-1", build_launch_scopes(number)
        # A dearer offer first, as an attempt does that is refused capacity.
        for price in (PRICE * 2, PRICE):
            amount = compute_worst_case(price, boot_seconds=1200, life_seconds=lives)
            try:
                for _ in range(self._times()):
                    self._budgets.reserve(name, amount, scopes)
            except OverBudget as error:
                self.refusals.append(error)
        known = self._budgets.find_reservation(name)
        if known is None:
            self.refused += 1
            return
        rental = build_rental(
            pod=name,
            pod_id=f"id{number}",
            submission_id=f"s-{number // 10}",
            user=USERS[number % len(USERS)],
            price_per_hour=PRICE,
            started_at=AT,
        )
        if self._stops():
            return
        self._meter.open(rental)
        if self._stops():
            return
        for _ in range(self._times()):
            # Each time by a clock that has gone on: only the first word may count.
            gone_at = AT + timedelta(seconds=self._random.uniform(0, lives))
            closed = self._meter.close(rental, at=gone_at, is_useful=number % 3 > 0)
            self._budgets.settle(name, closed.micros)

    def _times(self) -> int:
        return 2 if self._random.random() < 0.05 else 1

    def _stops(self) -> bool:
        has_stopped = self._random.random() < 0.03
        self.stopped += has_stopped
        return has_stopped


def finish(budgets: Budgets, meter) -> None:
    """Settle what drivers have left: what has no meter was never rented."""
    for reservation in budgets.list_open():
        entries = meter.list_pod(reservation.pod)
        spent = 0
        for rental in {entry.rental for entry in entries}:
            closed = meter.close(rental, at=AT + timedelta(seconds=600), is_useful=False)
            spent += closed.micros
        budgets.settle(reservation.pod, spent)


def test_no_budget_is_ever_overshot_and_the_meters_say_what_was_spent(
    budgets: Budgets, meter
) -> None:
    drivers = [Driver(budgets, meter, seed) for seed in range(THREADS)]

    def drive(index: int) -> None:
        for number in range(index, LAUNCHES, THREADS):
            drivers[index].launch(number)

    with (
        watching(lambda: check_limits(budgets)) as looks,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        list(pool.map(drive, range(THREADS)))
    left_over = budgets.list_open()
    assert len(left_over) == sum(driver.stopped for driver in drivers) > 0
    finish(budgets, meter)
    assert budgets.list_open() == []

    refusals = [error for driver in drivers for error in driver.refusals]
    assert all(error.needed > error.left >= 0 for error in refusals)
    assert {error.scope.split(":")[0] for error in refusals} == {"submission", "user", "month"}
    refused = sum(driver.refused for driver in drivers)
    print(f"{looks[0]} looks, {refused} refused, {len(left_over)} left by drivers that stopped")
    assert looks[0] > 100
    assert 100 < refused < LAUNCHES - 100

    states = budgets.read(ALL_SCOPES.values())
    assert all(state.reserved == 0 for state in states)
    assert all(state.left >= 0 for state in states)
    entries = meter.list_month("2026-11")
    sums = {"month:2026-11": sum_all(entries, now=AT)}
    for user, spend in sum_by(entries, lambda rental: rental.user, now=AT).items():
        sums[f"user:{user}:2026-11"] = spend
    for name, spend in sum_by(entries, lambda rental: rental.submission_id, now=AT).items():
        sums[f"submission:{name}"] = spend
    assert {state.scope.id: state.spent for state in states if state.spent} == {
        name: spend.micros for name, spend in sums.items() if spend.micros
    }
    # Whoever comes late changes nothing any more.
    with pytest.raises(ReservationSettled):
        budgets.reserve(left_over[0].pod, 1, build_launch_scopes(0))


def test_a_limit_that_is_changed_meanwhile_holds_for_every_later_launch(budgets: Budgets) -> None:
    """Twenty drivers, some of which have read the new, lower limit already."""
    limits = [1_000_000, 600_000]
    is_lowered = threading.Event()

    def drive(index: int) -> int:
        most = 0
        for number in range(20):
            limit = limits[is_lowered.is_set()]
            scopes = build_scopes(
                BudgetLimits(month=Decimal(limit) / 1_000_000),
                submission_id="s-1",
                user="ann",
                at=AT,
            )
            try:
                budgets.reserve(f"p{index}-{number}", 7_000, scopes)
            except OverBudget:
                continue
            most += 7_000
            if index == 0 and number == 3:
                is_lowered.set()
        return most

    with ThreadPoolExecutor(THREADS) as pool:
        taken = sum(pool.map(drive, range(THREADS)))
    [*_, month] = budgets.read(build_scopes(BudgetLimits(), submission_id="s-1", user="ann", at=AT))
    assert month.reserved == taken
    assert 600_000 - 7_000 < taken <= 1_000_000
