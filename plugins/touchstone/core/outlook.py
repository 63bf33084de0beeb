"""
What plans are made from: fleet, waiting trainings and durations, as a dispatcher saw them. Pure.

It is published beside the queue, so that a plan says what placement itself would decide. Readers
of the queue, of whom there are many, need not read it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from decimal import Decimal
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from touchstone.core.durations import Duration, DurationKey
from touchstone.core.eligibility import Resource
from touchstone.core.fairness import Waiting
from touchstone.core.images import NOTHING_KNOWN
from touchstone.core.market import Market
from touchstone.core.offers import GpuOffer, GpuRow, build_gpu_rows
from touchstone.core.placement import Snapshot
from touchstone_agent.protocol.messages import SlotClass

OUTLOOK_KEY = "dispatcher/outlook.json"
"""Key of the published outlook in the content bucket."""

STALE: Final = dt.timedelta(seconds=60)
"""An outlook this old tells nothing of now."""
MAX_DURATIONS: Final = 500
"""The outlook has the durations of so many kinds of trainings; the newest."""

_MEMBER_FIELDS: Final = frozenset({"key", "since", "order"})
"""In what the tasks of one submission differ while they wait."""


class _Published(BaseModel):
    # A reader may be older than the dispatcher that wrote it. RunPod's GPUs have any memory.
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants")


class Member(_Published):
    """
    One of the trainings that wait alike.

    :param key: The submission's id and the task's.
    :param since: Since when it waits.
    :param order: Its place among those that came together.
    """

    key: tuple[str, str]
    since: dt.datetime
    order: int = 0


class WaitingAlike(_Published):
    """
    Trainings that wait and differ in nothing else than their keys and times.

    :param first: One of them.
    :param members: All of them.
    """

    first: Waiting
    members: tuple[Member, ...]


class OfferedMarket(_Published):
    """What RunPod had to rent; the fields are those of :class:`~touchstone.core.market.Market`."""

    offers: tuple[GpuOffer, ...] = ()
    models: tuple[str, ...] = ()
    max_price: Decimal | None = None
    data_centers: tuple[str, ...] = ()


class KnownDuration(_Published):
    """
    How long trainings of one kind take.

    :param key: The kind.
    :param expected: Its duration.
    """

    key: DurationKey
    expected: Duration


class Outlook(_Published):
    """
    Fleet, waiting trainings and durations at one moment.

    :param at: When.
    :param is_paused: Whether placements are paused.
    :param stretch: What p90s of starts are multiplied by.
    :param cuda_grace: How long a task that prefers CUDA waits for it.
    :param usage: Each submitter's use of training slots, in slots.
    :param weights: Shares of submitters; 1 unless given.
    :param resources: Servers and RunPod, without what RunPod has to rent.
    :param markets: Offers to rent, by resource.
    :param waiting: The trainings that wait.
    :param durations: How long trainings take, by kind.
    """

    schema_version: Annotated[int, Field(ge=1)] = 1
    at: dt.datetime
    is_paused: bool = False
    stretch: float = 1.0
    cuda_grace: dt.timedelta = dt.timedelta(seconds=300)
    usage: Mapping[str, float] = {}
    weights: Mapping[str, float] = {}
    resources: tuple[Resource, ...] = ()
    markets: Mapping[str, OfferedMarket] = {}
    waiting: tuple[WaitingAlike, ...] = ()
    durations: tuple[KnownDuration, ...] = ()

    def is_stale(self, now: dt.datetime) -> bool:
        """Tell whether the dispatcher that wrote this is at work no more."""
        return now - self.at > STALE

    def build_resources(self) -> list[Resource]:
        """Return servers and RunPod as placement sees them."""
        return [
            replace(each, market=_open_market(self.markets.get(each.name)))
            for each in self.resources
        ]

    def list_gpus(self) -> tuple[GpuRow, ...]:
        """Return the GPU models that RunPod offers, cheapest first."""
        offers = [offer for market in self.markets.values() for offer in market.offers]
        return build_gpu_rows(offers, self.at)

    def build_snapshot(
        self, trainings: Sequence[Waiting], resources: Sequence[Resource], now: dt.datetime
    ) -> Snapshot:
        """
        Return what placement would see if some trainings waited beside those that do.

        :param trainings: The trainings that are planned.
        :param resources: As of :meth:`build_resources`.
        :param now: The time.
        """
        return Snapshot(
            now=now,
            waiting=[*self._list_waiting(), *trainings],
            resources=resources,
            usage=self.usage,
            weights=self.weights,
            cuda_grace=self.cuda_grace,
            is_paused=self.is_paused,
        )

    def index_durations(self) -> dict[DurationKey, Duration]:
        """Return how long trainings take, by kind, for :func:`find_duration`."""
        return {each.key: each.expected for each in self.durations}

    def _list_waiting(self) -> list[Waiting]:
        return [
            replace(alike.first, key=member.key, since=member.since, order=member.order)
            for alike in self.waiting
            for member in alike.members
        ]


def find_duration(known: Mapping[DurationKey, Duration], key: DurationKey) -> Duration | None:
    """Return how long a training of a kind takes; ``None`` if none like it has ended."""
    return next((known[each].scale(factor) for each, factor in key.like if each in known), None)


def build_outlook(
    seen: Snapshot, *, stretch: float, durations: Iterable[tuple[DurationKey, Duration]]
) -> Outlook:
    """
    Return what is published of one round of placement.

    :param seen: What the round decided by.
    :param stretch: What p90s of starts are multiplied by.
    :param durations: How long trainings take, by kind.
    """
    alike: dict[tuple[object, ...], list[Waiting]] = {}
    for task in seen.waiting:
        if task.needs.kind is SlotClass.TRAINING:
            alike.setdefault(_find_likeness(task), []).append(task)
    return Outlook(
        at=seen.now,
        is_paused=seen.is_paused,
        stretch=stretch,
        cuda_grace=seen.cuda_grace,
        usage=seen.usage,
        weights=seen.weights,
        resources=tuple(
            replace(each, market=None, fit=NOTHING_KNOWN, validation_running=())
            for each in seen.resources
        ),
        markets={each.name: _close_market(each.market) for each in seen.resources if each.market},
        waiting=tuple(
            WaitingAlike(
                first=tasks[0],
                members=tuple(
                    Member(key=task.key, since=task.since, order=task.order) for task in tasks
                ),
            )
            for tasks in alike.values()
        ),
        durations=tuple(KnownDuration(key=key, expected=expected) for key, expected in durations),
    )


_SHARED: Final = tuple(
    each.name for each in fields(Waiting) if each.name not in {*_MEMBER_FIELDS, "needs"}
)


def _find_likeness(task: Waiting) -> tuple[object, ...]:
    # Equal needs are one object; to compare their values would take longer than all else here.
    return (id(task.needs), *(getattr(task, name) for name in _SHARED))


def _close_market(market: Market) -> OfferedMarket:
    return OfferedMarket(
        offers=market.offers,
        models=market.models,
        max_price=market.max_price,
        data_centers=market.data_centers,
    )


def _open_market(offered: OfferedMarket | None) -> Market | None:
    if offered is None:
        return None
    return Market(
        offers=offered.offers,
        models=offered.models,
        max_price=offered.max_price,
        data_centers=offered.data_centers,
    )
