"""Reserves and counts the money of attempts' pods, by their records: budgets and meters."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Self

from touchstone.core.meter import Entry, EntryKind, Rental, sum_all
from touchstone.core.money import (
    BudgetLimits,
    Scope,
    build_month,
    build_scopes,
    compute_micros,
    to_micros,
    to_usd,
)
from touchstone.core.pod_attempts import find_attempt_with_pod, find_pod
from touchstone.core.pods import Pod
from touchstone.core.records.tasks import Task
from touchstone.settings import Settings
from touchstone.stores.meter import Meter
from touchstone.stores.money import Budgets


class Ledger:
    """
    The money of attempts' pods; every step may be done twice, or by two at once.

    :param budgets: What may be spent.
    :param meter: What pods cost.
    :param limits: What this installation allows.
    """

    def __init__(self, budgets: Budgets, meter: Meter, limits: BudgetLimits) -> None:
        self._budgets = budgets
        self._meter = meter
        self._limits = limits

    @classmethod
    def connect(cls, settings: Settings) -> Self:
        """Return a ledger on the installation's AWS connection."""
        return cls(Budgets.connect(settings), Meter.connect(settings), build_limits(settings))

    def reserve(self, task: Task, *, price: Decimal, seconds: float) -> None:
        """
        Reserve the worst case of an attempt's pod before it is ordered.

        :param price: USD per hour.
        :param seconds: How long it may be billed at most.
        :raises OverBudget: If a budget does not allow it.
        """
        self._budgets.reserve(
            str(task.newest.container), compute_micros(price, seconds), self._build_scopes(task)
        )

    def open(self, task: Task, fence: int) -> None:
        """Begin to count what an attempt's pod costs."""
        self._meter.open(build_rental(task, fence))

    def count_extra(self, task: Task, fence: int, pod: Pod, *, ended_at: datetime) -> None:
        """Count a second pod of an attempt's name, which was of no use to anybody."""
        rental = build_rental(task, fence).change(pod_id=pod.id)
        self._meter.open(rental)
        self._meter.close(rental, at=ended_at, is_useful=False)

    def close(
        self, task: Task, fence: int, *, ended_at: datetime | None, is_useful: bool
    ) -> tuple[int, Decimal]:
        """
        Count what an attempt's pod has cost, and give back what was reserved beyond that.

        :param ended_at: When it was given back; ``None`` if the order never became a pod.
        :param is_useful: Whether its attempt came to what it was for.
        :return: Seconds and USD, also if another process has closed it before.
        """
        pod = find_pod(task, fence)
        name = (pod.name if pod else "") or str(task.newest.container)
        if ended_at is not None:
            self._meter.close(build_rental(task, fence), at=ended_at, is_useful=is_useful)
        # With every other pod of its name: they came out of the same reservation.
        spend = sum_all(self._meter.list_pod(name), now=ended_at or datetime.now(UTC))
        self._budgets.settle(name, spend.micros)
        return spend.seconds, to_usd(spend.micros)

    def bill(self, rental: Rental, *, usd: Decimal, at: datetime) -> Decimal:
        """
        Take RunPod's own bill of a pod instead of our count.

        :return: What all pods of its name have cost now, USD.
        """
        self._meter.bill(rental, at=at, micros=to_micros(usd))
        spend = sum_all(self._meter.list_pod(rental.pod), now=at)
        self._budgets.correct(rental.pod, spend.micros)
        return to_usd(spend.micros)

    def list_reserved(self) -> list[str]:
        """Return the names of pods for which money is reserved and not settled."""
        return [reservation.pod for reservation in self._budgets.list_open()]

    def release(self, name: str) -> None:
        """Give back what was reserved for a pod that was never rented."""
        self._budgets.settle(name, 0)

    def list_unbilled(self, now: datetime) -> list[Entry]:
        """Return how pods of this month and the last were closed that are not billed yet."""
        return self._meter.list_unbilled(_find_last_month(now))

    def note_billed(self, closed: Entry) -> None:
        """Take a pod off that list: its bill is booked everywhere."""
        self._meter.note_billed(closed)

    def find_unbilled(self, now: datetime) -> int:
        """
        Put pods on that list that an earlier version has closed, which knew of no list.

        Reads all meters of two months.

        :return: How many were found, on the list or not.
        """
        months = (build_month(_find_last_month(now)), build_month(now))
        entries = [entry for month in months for entry in self._meter.list_month(month)]
        billed = {e.rental.pod_id for e in entries if e.kind is EntryKind.BILLED}
        closed = [e for e in entries if e.kind is EntryKind.CLOSED]
        found = [entry for entry in closed if entry.rental.pod_id not in billed]
        for entry in found:
            self._meter.note_unbilled(entry)
        return len(found)

    def _build_scopes(self, task: Task) -> tuple[Scope, ...]:
        at = task.newest.intent_at
        assert at is not None  # noqa: S101 - what is rented for was claimed
        return build_scopes(
            self._limits,
            submission_id=task.spec.submission_id,
            user=task.spec.submitted_by,
            at=at,
            budget=task.spec.schedule.budget,
        )


def _find_last_month(now: datetime) -> datetime:
    """Return when the month before this one began."""
    first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (first - timedelta(days=1)).replace(day=1)


def build_limits(settings: Settings) -> BudgetLimits:
    """Return what an installation allows to be spent."""
    return BudgetLimits(
        submission=settings.runpod_budget_submission,
        user_month=settings.runpod_budget_user_month,
        month=settings.runpod_budget_month,
    )


def build_rental(task: Task, fence: int) -> Rental:
    """
    Return whose pod an attempt's is, and what it is, as its meter tells it.

    :param task: The task; the attempt may be an older one of it.
    :raises ValueError: If the attempt has no pod, or none that is known to RunPod.
    """
    attempt = find_attempt_with_pod(task, fence)
    if attempt is None or attempt.pod is None or attempt.intent_at is None:
        raise ValueError(f"{task.name}: fence {fence} has no pod to be paid for")
    pod = attempt.pod
    return Rental(
        pod=pod.name,
        pod_id=str(pod.id),
        submission_id=task.submission_id,
        task_id=task.task_id,
        attempt=attempt.number,
        fence=fence,
        user=task.spec.submitted_by,
        month=build_month(attempt.intent_at),
        gpu=pod.gpu,
        cloud=pod.cloud,
        data_center=pod.data_center,
        price_per_hour=pod.price_per_hour,
        # From before the order on: what the answer took is billed, too, and never the other way.
        started_at=pod.ordered_at,
    )
