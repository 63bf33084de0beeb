"""A month of pods: money reserved, metered, settled and billed, by the steps of the real ledger."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from fakes.money import FakeBudgets, FakeMeter
from fakes.money_promises import build_rental
from touchstone.core.meter import Rental
from touchstone.core.money import BudgetLimits, build_month, build_scopes, to_micros

LIMITS = BudgetLimits(submission=Decimal(50), user_month=Decimal(100), month=Decimal(200))


class Spending:
    """
    Rents pods, on paper.

    :ivar count: How many so far: each has a name of its own.
    """

    def __init__(self, meter: FakeMeter, budgets: FakeBudgets, now: datetime) -> None:
        self.meter = meter
        self.budgets = budgets
        self.now = now
        self.count = 0

    def rent(
        self,
        submission_id: str = "s-1",
        *,
        user: str = "engineer",
        gpu: str | None = "NVIDIA L4",
        seconds: int = 100,
        price: str = "0.36",
        is_useful: bool = True,
        is_open: bool = False,
        bill: str | None = None,
        started_at: datetime | None = None,
    ) -> Rental:
        """
        Rent a pod that ended now, at $0.0001 a second unless another price is given.

        :param is_open: Whether it is not gone.
        :param bill: What RunPod has billed, USD.
        """
        self.count += 1
        at = started_at or self.now - timedelta(seconds=seconds)
        rental = build_rental(
            pod=f"pod-{self.count}",
            pod_id=f"id-{self.count}",
            submission_id=submission_id,
            user=user,
            month=build_month(at),
            gpu=gpu,
            price_per_hour=Decimal(price),
            started_at=at,
        )
        scopes = build_scopes(LIMITS, submission_id=submission_id, user=user, at=at)
        self.budgets.reserve(rental.pod, to_micros(Decimal(2)), scopes)
        self.meter.open(rental)
        if is_open:
            return rental
        ended = at + timedelta(seconds=seconds)
        closed = self.meter.close(rental, at=ended, is_useful=is_useful)
        self.budgets.settle(rental.pod, closed.micros or 0)
        if bill is not None:
            micros = to_micros(Decimal(bill))
            self.meter.bill(rental, at=ended, micros=micros)
            self.budgets.correct(rental.pod, micros)
        return rental
