"""Reserves and counts the money of attempts' pods: budgets and meters, by what is on record."""

from __future__ import annotations

from dataclasses import replace
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
from touchstone.core.pod_attempts import find_pod
from touchstone.core.pods import Pod
from touchstone.core.tasks import TaskSpec
from touchstone.hooks.meter import Meter
from touchstone.hooks.money import Budgets
from touchstone.hooks.records import Record
from touchstone.settings import Settings


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

    def reserve(self, record: Record, *, price: Decimal, seconds: float) -> None:
        """
        Reserve the worst case of an attempt's pod before it is ordered.

        :param price: USD per hour.
        :param seconds: How long it may be billed at most.
        :raises OverBudget: If a budget does not allow it.
        """
        self._budgets.reserve(
            str(record["container"]), compute_micros(price, seconds), self._build_scopes(record)
        )

    def open(self, record: Record, fence: int) -> None:
        """Begin to count what an attempt's pod costs."""
        self._meter.open(build_rental(record, fence))

    def count_extra(self, record: Record, fence: int, pod: Pod, *, ended_at: datetime) -> None:
        """Count a second pod of an attempt's name, which was of no use to anybody."""
        rental = replace(build_rental(record, fence), pod_id=pod.id)
        self._meter.open(rental)
        self._meter.close(rental, at=ended_at, is_useful=False)

    def close(
        self, record: Record, fence: int, *, ended_at: datetime | None, is_useful: bool
    ) -> tuple[int, Decimal]:
        """
        Count what an attempt's pod has cost, and give back what was reserved beyond that.

        :param ended_at: When it was given back; ``None`` if the order never became a pod.
        :param is_useful: Whether its attempt came to what it was for.
        :return: Seconds and USD, also when somebody else has closed it before.
        """
        pod = find_pod(record, fence) or {}
        name = str(pod.get("name") or record["container"])
        if ended_at is not None:
            self._meter.close(build_rental(record, fence), at=ended_at, is_useful=is_useful)
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

    def _build_scopes(self, record: Record) -> tuple[Scope, ...]:
        spec = TaskSpec.model_validate(record["config"])
        return build_scopes(
            self._limits,
            submission_id=spec.submission_id,
            user=spec.submitted_by,
            at=datetime.fromisoformat(record["intent_at"]),
            budget=spec.pods.budget,
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


def build_rental(record: Record, fence: int) -> Rental:
    """
    Return whose pod an attempt's is, and what it is, as its meter tells it.

    :param record: The task's record; the attempt may be an older one of it.
    """
    attempt = next(
        item
        for item in (record, *(record.get("attempts") or ()))
        if item.get("fence") == fence and item.get("pod")
    )
    pod = attempt["pod"]
    return Rental(
        pod=str(pod["name"]),
        pod_id=str(pod["id"]),
        submission_id=str(record["submission_id"]),
        task_id=str(record["task_id"]),
        attempt=int(attempt["attempt"]),
        fence=fence,
        user=str(record["config"].get("submitted_by") or "unknown"),
        month=build_month(datetime.fromisoformat(attempt["intent_at"])),
        gpu=pod.get("gpu"),
        cloud=pod.get("cloud"),
        data_center=pod.get("data_center"),
        price_per_hour=Decimal(str(pod["price_per_hour"])),
        # From before the order on: what the answer took is billed, too, and never the other way.
        started_at=datetime.fromisoformat(pod["ordered_at"]),
    )
