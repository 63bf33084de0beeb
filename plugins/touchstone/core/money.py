"""
Money: what a pod may cost at most, which budgets that comes out of, and what is booked on them.

Amounts are whole micro-dollars, so that no sum depends on the order of its parts; USD as
``Decimal`` come in and go out at the edges. A begun micro-dollar counts: nothing is booked for
less than it costs. What pods have really cost is in :mod:`touchstone.core.meter`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Final, Self

from pydantic import ConfigDict, model_validator

from touchstone.core.pods import compute_cost
from touchstone.core.records.stored import StoredRecord

MICROS_PER_USD: Final = 1_000_000
_CENT = Decimal("0.01")
_MONTHS: Final = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)


def to_micros(usd: Decimal) -> int:
    """Return USD as micro-dollars; a begun one counts."""
    return math.ceil(usd * MICROS_PER_USD)


def to_usd(micros: int) -> Decimal:
    """Return micro-dollars as USD, exactly."""
    return Decimal(micros) / MICROS_PER_USD


def compute_worst_case(price_per_hour: Decimal, *, boot_seconds: float, life_seconds: float) -> int:
    """
    Return the most that a pod may cost, in micro-dollars.

    :param price_per_hour: USD.
    :param boot_seconds: From the order to where its own clock begins; RunPod bills it already.
    :param life_seconds: How long it lives at most by that clock.
    """
    return to_micros(compute_cost(price_per_hour, boot_seconds + life_seconds))


def compute_micros(price_per_hour: Decimal, seconds: float) -> int:
    """Return what a time costs, in micro-dollars; begun seconds count."""
    return to_micros(compute_cost(price_per_hour, seconds))


def build_month(at: datetime) -> str:
    """Return the UTC month that what is launched at a time counts for, as ``2026-11``."""
    return at.astimezone(UTC).strftime("%Y-%m")


def list_months(now: datetime, count: int) -> list[str]:
    """Return the newest UTC months as :func:`build_month` does, the one of a time first."""
    last = now.astimezone(UTC)
    numbers = [last.year * 12 + last.month - 1 - back for back in range(count)]
    return [f"{number // 12:04}-{number % 12 + 1:02}" for number in numbers]


# --- scopes ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class BudgetLimits:
    """
    What may be spent on pods, in USD; ``None`` for no limit.

    :param submission: On all pods of one submission.
    :param user_month: By one user, on pods launched within a month.
    :param month: By everybody, on pods launched within a month.
    """

    submission: Decimal | None = None
    user_month: Decimal | None = None
    month: Decimal | None = None


@dataclass(frozen=True, kw_only=True)
class Scope:
    """
    One of the budgets that a pod comes out of.

    :param id: ``submission:<id>``, ``user:<name>:<YYYY-MM>`` or ``month:<YYYY-MM>``.
    :param limit: Micro-dollars; ``None`` counts what is spent, and refuses nothing.
    """

    id: str
    limit: int | None


def build_scopes(
    limits: BudgetLimits,
    *,
    submission_id: str,
    user: str,
    at: datetime,
    budget: Decimal | None = None,
) -> tuple[Scope, ...]:
    """
    Return the budgets that a launch comes out of, narrowest first.

    :param limits: The installation's.
    :param user: Who has submitted.
    :param at: When the pod is launched; one that lives on counts for the month it began in.
    :param budget: The submission's own, USD; the installation's holds as well.
    """
    month = build_month(at)
    return (
        build_submission_scope(limits, submission_id, budget),
        build_month_scope(limits, month, user),
        build_month_scope(limits, month),
    )


def build_submission_scope(
    limits: BudgetLimits, submission_id: str, budget: Decimal | None = None
) -> Scope:
    """
    Return the budget of a submission.

    :param limits: The installation's.
    :param submission_id: Its id.
    :param budget: Its own, USD; the lower of both holds.
    """
    given = [limit for limit in (limits.submission, budget) if limit is not None]
    return _build_scope(f"submission:{submission_id}", min(given, default=None))


def build_month_scope(limits: BudgetLimits, month: str, user: str | None = None) -> Scope:
    """
    Return the budget of a month.

    :param limits: The installation's.
    :param month: As :func:`build_month` returns it.
    :param user: Whose; ``None`` for that of all.
    """
    if user is None:
        return _build_scope(f"month:{month}", limits.month)
    return _build_scope(f"user:{user}:{month}", limits.user_month)


def _build_scope(name: str, usd: Decimal | None) -> Scope:
    return Scope(id=name, limit=None if usd is None else to_micros(usd))


def describe_scope(scope_id: str) -> str:
    """Return a budget's name for people: "budget of ann for November 2026"."""
    kind, _, rest = scope_id.partition(":")
    if kind == "submission":
        return f"budget of submission {rest}"
    owner, _, month = rest.rpartition(":")
    year, _, number = month.partition("-")
    return f"budget of {owner or 'all pods'} for {_MONTHS[int(number) - 1]} {year}"


def describe_refusal(scope_id: str, *, left: int, needed: int) -> str:
    """Return the line that tells an engineer why a pod is not rented."""
    return (
        f"{describe_scope(scope_id)}: {_format(left, ROUND_FLOOR)} left, "
        f"this pod may cost up to {_format(needed, ROUND_CEILING)}"
    )


def _format(micros: int, rounding: str) -> str:
    cents = to_usd(micros).quantize(_CENT, rounding=rounding)
    return f"{'-' if cents < 0 else ''}${abs(cents)}"


# --- what is booked --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class BudgetState:
    """
    How a budget stands, in micro-dollars.

    :param reserved: For pods that may still cost something: the worst case of each.
    :param spent: On pods that cost nothing any more.
    """

    scope: Scope
    reserved: int = 0
    spent: int = 0

    @property
    def left(self) -> int | None:
        """Return what may still be reserved; below zero when more was spent than was allowed."""
        limit = self.scope.limit
        return None if limit is None else limit - self.reserved - self.spent


class Reservation(StoredRecord):
    """
    What is on record of one pod's money, in micro-dollars.

    :param pod: The pod's name, which no other attempt's pod has.
    :param scopes: Ids of the budgets it comes out of.
    :param reserved: Its worst case.
    :param spent: What it has cost; ``None`` until it is settled.
    :param version: Counts the changes.
    """

    # A booking writes the whole record: what another version keeps in it is written back.
    model_config = ConfigDict(frozen=True, extra="allow")

    pod: str
    scopes: tuple[str, ...]
    reserved: int
    spent: int | None = None
    version: int = 1

    @model_validator(mode="after")
    def _costs_something(self) -> Self:
        # A budget must not grow by a mistake.
        if self.reserved < 0 or (self.spent or 0) < 0:
            raise ValueError(f"pod {self.pod} cannot cost less than nothing")
        return self

    @property
    def is_settled(self) -> bool:
        """Return whether it has given back what was not used."""
        return self.spent is not None

    @property
    def used(self) -> int:
        """Return what it takes of its budgets now."""
        return self.reserved if self.spent is None else self.spent


class BudgetUse(StoredRecord):
    """
    What is on record of a budget, in micro-dollars.

    :param scope: The budget's id.
    :param used: What is reserved and spent.
    :param spent: What is spent of it.
    """

    scope: str
    used: int
    spent: int


@dataclass(frozen=True, kw_only=True)
class Move:
    """
    By what one budget changes.

    :param used: Change of what is reserved and spent together.
    :param spent: Change of what is spent.
    :param ceiling: Most that may be used before the move for it to be allowed; ``None`` if it is
        allowed whatever is used. The store compares, it cannot compute.
    """

    scope: str
    used: int
    spent: int = 0
    ceiling: int | None = None


@dataclass(frozen=True, kw_only=True)
class Posting:
    """
    One change that is made as a whole or not at all: a reservation, and its budgets.

    :param before: What is on record; ``None`` if nothing is.
    :param after: What is to be.
    """

    before: Reservation | None
    after: Reservation
    moves: tuple[Move, ...] = ()

    @property
    def is_done(self) -> bool:
        """Return whether there is nothing to change."""
        return self.after == self.before


def plan_reservation(
    known: Reservation | None, pod: str, amount: int, scopes: Iterable[Scope]
) -> Posting:
    """
    Say what changes when a pod shall cost up to an amount.

    :param known: What is on record of it; not settled.
    :param amount: Its worst case, instead of the one on record if there is one.
    :param scopes: The budgets; others than before when an attempt still tries in the next month.
    """
    limits = {scope.id: scope.limit for scope in scopes}
    held = dict.fromkeys(known.scopes, known.reserved) if known is not None else {}
    if known is not None and held == dict.fromkeys(limits, amount):
        return Posting(before=known, after=known)
    changes = {name: amount - held.get(name, 0) for name in limits}
    changes |= {name: -reserved for name, reserved in held.items() if name not in limits}
    before = Reservation(pod=pod, scopes=(), reserved=0, version=0) if known is None else known
    return Posting(
        before=known,
        after=before.change(scopes=tuple(limits), reserved=amount, version=before.version + 1),
        moves=tuple(
            Move(scope=name, used=change, ceiling=_find_ceiling(limits.get(name), change))
            for name, change in changes.items()
            if change
        ),
    )


def _find_ceiling(limit: int | None, change: int) -> int | None:
    # To give something back is always allowed, also where a limit was lowered below what is used.
    return None if limit is None or change <= 0 else limit - change


def plan_settlement(known: Reservation | None, pod: str, spent: int) -> Posting:
    """
    Say what changes when a pod will cost no more than it has; nothing if it is settled already.

    One that was never reserved for is settled all the same: a launch that comes late finds the
    account closed, instead of reserving what nobody would ever give back.
    """
    if known is not None and known.is_settled:
        return Posting(before=known, after=known)
    return _plan_spending(known, pod, spent)


def plan_correction(known: Reservation, spent: int) -> Posting:
    """Say what changes when a settled pod has really cost an amount."""
    if known.spent == spent:
        return Posting(before=known, after=known)
    return _plan_spending(known, known.pod, spent)


def _plan_spending(known: Reservation | None, pod: str, spent: int) -> Posting:
    nothing = Reservation(pod=pod, scopes=(), reserved=0, version=0)
    before = nothing if known is None else known
    moves = (
        Move(scope=name, used=spent - before.used, spent=spent - (before.spent or 0))
        for name in before.scopes
    )
    return Posting(
        before=known,
        after=before.change(spent=spent, version=before.version + 1),
        moves=tuple(move for move in moves if move.used or move.spent),
    )
