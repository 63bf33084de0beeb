"""
What pods have cost: a meter for each, to which is only ever added, and sums over many of them.

A meter says up to three things of a pod: that its bill began, that it ended and what that makes by
our own clock, and what RunPod says it was. Each outranks the one before it. Amounts are
micro-dollars, see :mod:`touchstone.core.money`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from pydantic import JsonValue, model_validator

from touchstone.core.money import compute_micros
from touchstone.core.records.stored import StoredRecord, Time, Usd

Key = TypeVar("Key", bound=Hashable)


class EntryKind(StrEnum):
    """What an entry says; in this order, and each outranks the one before it."""

    OPENED = "1-opened"
    CLOSED = "2-closed"
    BILLED = "3-billed"


class Rental(StoredRecord):
    """
    Whose pod it is, and what it is: the same in every entry, so that each can stand alone.

    :param pod: Its name.
    :param pod_id: RunPod's id; an order may become two pods of one name, and each is billed.
    :param user: Who has submitted.
    :param month: The month whose budgets it comes out of: that of its launch, UTC.
    :param gpu: ``None`` for a pod without.
    :param cloud: ``None`` if RunPod does not say; likewise the data centre.
    :param price_per_hour: USD, at its start.
    :param started_at: When its bill began.
    """

    pod: str
    pod_id: str
    submission_id: str
    task_id: str
    attempt: int
    fence: int
    user: str
    month: str
    gpu: str | None
    cloud: str | None
    data_center: str | None
    price_per_hour: Usd
    started_at: Time

    def count_seconds(self, until: datetime) -> int:
        """Return for how many seconds it is billed at a time; begun ones count."""
        return math.ceil(max(0.0, (until - self.started_at).total_seconds()))

    def open(self) -> Entry:
        """Return the entry that its bill has begun."""
        return Entry(kind=EntryKind.OPENED, rental=self, at=self.started_at)

    def close(self, at: datetime, *, is_useful: bool) -> Entry:
        """
        Return the entry that it is gone.

        :param at: When that was certain.
        :param is_useful: Whether its attempt ended well; otherwise it was wasted.
        """
        seconds = self.count_seconds(at)
        return Entry(
            kind=EntryKind.CLOSED,
            rental=self,
            at=at,
            seconds=seconds,
            micros=compute_micros(self.price_per_hour, seconds),
            is_useful=is_useful,
        )

    def bill(self, at: datetime, micros: int) -> Entry:
        """
        Return the entry of what RunPod has billed for it.

        :param at: When RunPod said so; of two, the later one holds.
        :param micros: What it said.
        """
        return Entry(kind=EntryKind.BILLED, rental=self, at=at, micros=micros)


class Entry(StoredRecord):
    """
    One thing that a pod's meter says. It is stored flat, with ``pod`` and ``entry`` for a key.

    :param at: Since when it is so.
    :param seconds: What it is billed for; known when it is closed.
    :param micros: What it has cost; known when it is closed or billed.
    :param is_useful: Whether its attempt ended well; known when it is closed.
    """

    kind: EntryKind
    rental: Rental
    at: Time
    seconds: int | None = None
    micros: int | None = None
    is_useful: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _gather_rental(cls, stored: object) -> object:
        if isinstance(stored, Mapping) and "rental" not in stored:
            return {**stored, "rental": stored}
        return stored

    @property
    def id(self) -> str:
        """Return what tells it from the other entries of a pod's name."""
        return f"{self.kind}#{self.rental.pod_id}"

    def dump(self) -> dict[str, JsonValue]:
        """Return it as plain JSON values, flat."""
        facts = self.model_dump(mode="json", exclude={"rental"})
        return {**self.rental.dump(), "entry": self.id, **facts}


@dataclass(frozen=True, kw_only=True)
class Spend:
    """
    What some pods have cost together.

    :param pods: How many.
    :param seconds: How long they were billed.
    :param micros: What that makes: by RunPod's bill where there is one, else by our own clock.
    :param useful_micros: The part of pods whose attempts ended well.
    :param wasted_micros: The part of pods whose attempts did not.
    :param open_micros: The rest: pods that are not known to be gone, up to now.
    :param billed_pods: How many of them RunPod has billed.
    :param billed_micros: What it has billed for those.
    """

    pods: int = 0
    seconds: int = 0
    micros: int = 0
    useful_micros: int = 0
    wasted_micros: int = 0
    open_micros: int = 0
    billed_pods: int = 0
    billed_micros: int = 0

    def __add__(self, other: Spend) -> Spend:
        return Spend(
            **{each.name: getattr(self, each.name) + getattr(other, each.name) for each in _PARTS}
        )


_PARTS = fields(Spend)


def sum_by(
    entries: Iterable[Entry], key: Callable[[Rental], Key], *, now: datetime
) -> dict[Key, Spend]:
    """
    Return what pods have cost, grouped.

    :param entries: Entries of any pods, in any order; all of a pod, or its last word is missed.
    :param key: What to group by: ``lambda rental: rental.user``.
    :param now: Until when pods are counted that are not gone.
    """
    sums: dict[Key, Spend] = {}
    for meter in _group_by_pod(entries):
        group = key(meter[max(meter)].rental)
        sums[group] = sums.get(group, Spend()) + _sum_pod(meter, now)
    return sums


def sum_all(entries: Iterable[Entry], *, now: datetime) -> Spend:
    """Return what all these pods have cost together."""
    return sum_by(entries, lambda _: None, now=now).get(None, Spend())


def _group_by_pod(entries: Iterable[Entry]) -> Iterable[dict[EntryKind, Entry]]:
    meters: dict[tuple[str, str], dict[EntryKind, Entry]] = {}
    for entry in entries:
        meters.setdefault((entry.rental.pod, entry.rental.pod_id), {})[entry.kind] = entry
    return meters.values()


def _sum_pod(meter: Mapping[EntryKind, Entry], now: datetime) -> Spend:
    closed, billed = meter.get(EntryKind.CLOSED), meter.get(EntryKind.BILLED)
    rental = meter[max(meter)].rental
    running = rental.count_seconds(now)
    seconds = running if closed is None or closed.seconds is None else closed.seconds
    told = next(
        (each.micros for each in (billed, closed) if each and each.micros is not None), None
    )
    micros = compute_micros(rental.price_per_hour, seconds) if told is None else told
    bill = billed.micros if billed else None
    return Spend(
        pods=1,
        seconds=seconds,
        micros=micros,
        useful_micros=micros if closed and closed.is_useful else 0,
        wasted_micros=micros if closed and not closed.is_useful else 0,
        open_micros=0 if closed else micros,
        billed_pods=0 if bill is None else 1,
        billed_micros=bill or 0,
    )
