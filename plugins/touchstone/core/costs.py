"""What pods of a month have cost, as people read it: by submission, submitter or GPU. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Final

from touchstone.core.answers.costs import CostBudget, CostRow
from touchstone.core.meter import Entry, Rental, Spend, sum_by
from touchstone.core.money import BudgetState, to_usd

MAX_ROWS: Final = 200
"""Rows of a report; the rest is in its total, and counted."""
MONTHS: Final = 12
"""Months that a report compares."""
NO_GPU: Final = "no GPU"
TOTAL: Final = "total"


class CostGroup(StrEnum):
    """What a report has a row for."""

    SUBMISSION = "submission"
    SUBMITTER = "submitter"
    GPU = "gpu"

    def get_name(self, rental: Rental) -> str:
        """Return the name of the row in which a pod counts."""
        if self is CostGroup.SUBMISSION:
            return rental.submission_id
        if self is CostGroup.SUBMITTER:
            return rental.user
        return rental.gpu or NO_GPU


def list_spends(
    entries: Iterable[Entry], by: CostGroup, *, now: datetime
) -> tuple[list[tuple[str, Spend]], Spend]:
    """
    Return what each row of a report has cost, the dearest first, and all of them together.

    :param entries: All entries of the pods that count.
    :param by: What a row is for.
    :param now: Until when pods are counted that are not gone.
    """
    sums = sum_by(entries, by.get_name, now=now)
    total = sum(sums.values(), Spend())
    return sorted(sums.items(), key=lambda item: (-item[1].micros, item[0])), total


def build_rows(
    spends: Sequence[tuple[str, Spend]],
    *,
    users: Mapping[str, str],
    budgets: Mapping[str, BudgetState],
) -> tuple[CostRow, ...]:
    """
    Return the rows of a report.

    :param spends: As :func:`list_spends` returns them.
    :param users: The submitter of each row that belongs to one.
    :param budgets: The budget of each row that has one, by its name.
    """
    return tuple(
        build_row(name, spend, user=users.get(name), budget=budgets.get(name))
        for name, spend in spends
    )


def build_row(
    name: str, spend: Spend, *, user: str | None = None, budget: BudgetState | None = None
) -> CostRow:
    """Return one row of a report; see :class:`~touchstone.core.answers.costs.CostRow`."""
    return CostRow(
        name=name,
        user=user,
        pods=spend.pods,
        seconds=spend.seconds,
        usd=format_usd(spend.micros),
        useful_usd=format_usd(spend.useful_micros),
        wasted_usd=format_usd(spend.wasted_micros),
        open_usd=format_usd(spend.open_micros),
        billed_pods=spend.billed_pods,
        billed_usd=format_usd(spend.billed_micros) if spend.billed_pods else None,
        budget=build_budget(budget) if budget else None,
    )


def build_budget(state: BudgetState) -> CostBudget:
    """Return how a budget stands, as the API says it."""
    limit, left = state.scope.limit, state.left
    return CostBudget(
        limit_usd=None if limit is None else format_usd(limit),
        reserved_usd=format_usd(state.reserved),
        spent_usd=format_usd(state.spent),
        left_usd=None if left is None else format_usd(left),
    )


def format_usd(micros: int) -> str:
    """Return micro-dollars as text in US dollars, exactly; tables and pages round to cents."""
    return f"{to_usd(micros):.6f}"
