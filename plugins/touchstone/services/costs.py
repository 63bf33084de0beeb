"""Reads what pods have cost: meters, budgets, and the budgets that submissions bring along."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from touchstone.core.answers.costs import CostMonth, CostReport
from touchstone.core.costs import (
    MAX_ROWS,
    MONTHS,
    TOTAL,
    CostGroup,
    build_budget,
    build_row,
    build_rows,
    list_spends,
)
from touchstone.core.money import (
    BudgetLimits,
    BudgetState,
    Scope,
    build_month_scope,
    build_submission_scope,
    list_months,
)
from touchstone.core.records.stored import RecordUnreadable
from touchstone.core.records.submissions import SubmissionBudget
from touchstone.stores.meter import Meter
from touchstone.stores.money import Budgets
from touchstone.stores.records import RecordStore

log = logging.getLogger(__name__)

_PROBLEM: Final = (
    "a record of money makes no sense, and a sum without it would be too small; "
    "the api-server's log names it"
)
"""Without the record's name, which may be another user's."""


@dataclass(frozen=True, kw_only=True)
class CostReader:
    """
    Makes reports of what pods have cost.

    A report reads the meters of one month, from their index, and some budgets by their keys. What
    it costs does not depend on how many months there were.

    :param meter: What pods cost.
    :param budgets: What may be spent on them.
    :param records: The submissions, for the budgets of their schedules.
    :param limits: What the installation allows.
    """

    meter: Meter
    budgets: Budgets
    records: RecordStore
    limits: BudgetLimits

    def build_report(
        self, month: str, by: CostGroup, *, user: str | None, now: datetime
    ) -> CostReport:
        """
        Return what the pods have cost that were launched in a month.

        An entry or budget that makes no sense leaves the report without figures, for a sum without
        it would be too small; the report says which.

        :param month: As ``2026-11``.
        :param by: What the report has rows for.
        :param user: Whose pods alone are counted; ``None`` for everybody's.
        :param now: Until when pods are counted that are not gone.
        """
        asked = CostReport(month=month, by=by.value, user=user, at=now.isoformat())
        try:
            return self._build(asked, by, now)
        except RecordUnreadable as error:
            log.error("no costs of %s are shown: %s", month, error)
            return asked.model_copy(update={"problem": _PROBLEM})

    def _build(self, asked: CostReport, by: CostGroup, now: datetime) -> CostReport:
        month, user = asked.month, asked.user
        entries = [
            entry
            for entry in self.meter.list_month(month)
            if user is None or entry.rental.user == user
        ]
        spends, total = list_spends(entries, by, now=now)
        users: dict[str, str] = {}
        if by is CostGroup.SUBMISSION:
            users = {entry.rental.submission_id: entry.rental.user for entry in entries}
        shown = spends[:MAX_ROWS]
        scopes = self._find_scopes(by, month, [name for name, _ in shown])
        of_months = {
            each: build_month_scope(self.limits, each, user)
            for each in dict.fromkeys((*list_months(now, MONTHS), month))
        }
        states = self._read({**scopes, **{f"month {m}": s for m, s in of_months.items()}})
        of_month = {each: states.pop(f"month {each}") for each in of_months}
        return asked.model_copy(
            update={
                "total": build_row(TOTAL, total, budget=of_month[month]),
                "rows": build_rows(shown, users=users, budgets=states),
                "left_out": len(spends) - len(shown),
                "months": tuple(
                    CostMonth(month=each, budget=build_budget(of_month[each]))
                    for each in list_months(now, MONTHS)
                ),
            }
        )

    def _find_scopes(self, by: CostGroup, month: str, names: Iterable[str]) -> dict[str, Scope]:
        """Return the budget of each row; a GPU has none."""
        if by is CostGroup.SUBMITTER:
            return {name: build_month_scope(self.limits, month, name) for name in names}
        if by is CostGroup.GPU:
            return {}
        found = self.records.find_submissions(names, SubmissionBudget)
        own = {each.submission_id: each.budget for each in found.records}
        return {
            name: build_submission_scope(self.limits, name, own.get(name))
            for name in names
            # The schedule of an unreadable record may have a budget: its limit is not known.
            if name not in found.unreadable
        }

    def _read(self, scopes: dict[str, Scope]) -> dict[str, BudgetState]:
        return dict(zip(scopes, self.budgets.read(scopes.values()), strict=True))
