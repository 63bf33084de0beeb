"""
What would become of a schedule if it were given now: where, when and for how much. Pure.

Nothing is bound by a plan. It says what placement decides at this moment, by the same rules.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from touchstone.core.answers.plans import PlannedTask, SchedulePlan
from touchstone.core.durations import DEFAULTS, Duration, DurationKey
from touchstone.core.eligibility import Needs, Resource, find_unfit
from touchstone.core.estimates import Estimate, estimate
from touchstone.core.fairness import Key, Waiting
from touchstone.core.names import build_task_id
from touchstone.core.outlook import Outlook, find_duration
from touchstone.core.placement import Plan, Snapshot, plan
from touchstone.core.placement_groups import PlacementGroups
from touchstone.core.schedule import Schedule
from touchstone_agent.protocol.messages import SlotClass

NO_OUTLOOK: Final = "no dispatcher is at work: nobody can say where and when it would start"
GUESSED: Final = (
    "no training has ended here yet: how long one takes, and so its end and price, is a guess"
)
Training = tuple[int, int | None]
"""A training by its interval and the number of its fold; ``None`` without folds."""

_SECONDS_PER_HOUR: Final = 3600
_TOLD: Final = 3
"""A line names so many places, and counts the rest."""


@dataclass(frozen=True, kw_only=True)
class PlannedSubmission:
    """
    An accepted submission that a schedule may be given to.

    :param submission_id: The submission.
    :param submitter: Whose it is, and so whose share its trainings count in.
    :param needs: What its trainings ask of a machine.
    :param system: What kind of module it is.
    :param data: Name and version of the data set; ``None`` for the built-in one.
    """

    submission_id: str
    submitter: str
    needs: Needs
    system: str
    data: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Rate:
    """
    What an hour somewhere costs.

    :param usd: US dollars; ``None`` if nobody says.
    :param told: The same in words, or why nobody says.
    """

    usd: Decimal | None
    told: str


def plan_schedule(
    submissions: Sequence[PlannedSubmission],
    schedule: Schedule,
    outlook: Outlook | None,
    *,
    wall_seconds: float,
    now: dt.datetime,
) -> SchedulePlan:
    """
    Say what would become of a schedule.

    :param submissions: Those that it is given to.
    :param schedule: How they are trained.
    :param outlook: What a dispatcher has published; ``None`` if it has not, or long ago.
    :param wall_seconds: How long a training may take in this installation.
    :param now: The time, UTC.
    """
    if schedule.max_hours is not None:
        wall_seconds = min(wall_seconds, schedule.max_hours * _SECONDS_PER_HOUR)
    if outlook is None or outlook.is_stale(now):
        tasks = tuple(
            _describe(each.submission_id, training, schedule, reason=NO_OUTLOOK)
            for each in submissions
            for training in schedule.trainings
        )
        return _sum_up(tasks, schedule, remarks=[], now=now)
    known = outlook.index_durations()
    trainings: dict[Key, Waiting] = {}
    is_guess = False
    for each in submissions:
        for order, training in enumerate(schedule.trainings):
            found = find_duration(known, _build_key(each, schedule, training))
            is_guess = is_guess or found is None
            key = (each.submission_id, build_task_id(*training))
            trainings[key] = Waiting(
                key=key,
                needs=each.needs,
                since=now,
                priority=schedule.priority,
                order=order,
                submitter=each.submitter,
                expected=_cut(
                    found or DEFAULTS[SlotClass.TRAINING].scale(schedule.seed_count), wall_seconds
                ),
            )
    resources = outlook.build_resources()
    seen = outlook.build_snapshot(list(trainings.values()), resources, now)
    decided, starts = plan(seen), estimate(seen, stretch=outlook.stretch)
    facts = _Facts(seen, decided, starts)
    tasks = tuple(
        facts.describe(trainings[each.submission_id, build_task_id(*training)], training, schedule)
        for each in submissions
        for training in schedule.trainings
    )
    return _sum_up(tasks, schedule, remarks=[GUESSED] if is_guess else [], now=now)


class _Facts:
    """What placement would say of some trainings, looked up by task."""

    def __init__(self, seen: Snapshot, decided: Plan, starts: dict[Key, Estimate]) -> None:
        self._resources = {each.name: each for each in seen.resources}
        self._groups = PlacementGroups(SlotClass.TRAINING, seen.resources, seen.delays)
        self._placements = {each.key: each for each in decided.placements}
        self._waits = {each.key: each for each in decided.waits}
        self._starts = starts

    def describe(self, task: Waiting, training: Training, schedule: Schedule) -> PlannedTask:
        placement = self._placements.get(task.key)
        wait, start = self._waits.get(task.key), self._starts.get(task.key)
        told = placement or wait
        low, high, price_reason = self._price(task, placement.resource if placement else None)
        last = task.expected or DEFAULTS[SlotClass.TRAINING]
        return _describe(
            task.key[0],
            training,
            schedule,
            place=placement.resource if placement else None,
            position=wait.position if wait else None,
            reason=told.reason if told else "",
            start=start,
            last=last,
            low=low,
            high=high,
            price_reason=price_reason,
        )

    def _price(
        self, task: Waiting, place: str | None
    ) -> tuple[Decimal | None, Decimal | None, str]:
        """Return the least and most that a training may cost, and how, or why nobody knows."""
        if place is not None:
            places: Iterable[Resource] = [self._resources[place]]
        else:
            # Where it may go later: full ones and closed ones as well.
            places = self._groups.get(task).usable or [
                each for each in self._groups.all if find_unfit(task.needs, each) is None
            ]
        rates = [_find_rate(task.needs, each) for each in places]
        if not rates:
            return None, None, "no resource can run it"
        known = [each.usd for each in rates if each.usd is not None]
        unknown = list(dict.fromkeys(each.told for each in rates if each.usd is None))
        if not known:
            return None, None, _join(unknown)
        last = task.expected or DEFAULTS[SlotClass.TRAINING]
        low = min(known) * Decimal(str(last.p50_seconds)) / _SECONDS_PER_HOUR
        high = max(known) * Decimal(str(last.p90_seconds)) / _SECONDS_PER_HOUR
        told = list(dict.fromkeys(each.told for each in rates if each.usd is not None))
        return low, high, _join([*told, *unknown])


def _find_rate(needs: Needs, resource: Resource) -> _Rate:
    name, asked = resource.name, needs.placement
    if resource.market is not None:
        selection = resource.market.choose(
            gpu_models=asked.gpu_models,
            cloud=asked.cloud,
            max_price=asked.max_price,
            min_memory_gb=asked.min_vram_gib,
        )
        if not selection.candidates:
            return _Rate(usd=None, told=f"{name}: {selection.reason or 'it has nothing to rent'}")
        # The order tries them in turn, and the first one is there as a rule.
        first = selection.candidates[0]
        told = f"{name}: ${first.price_per_hour}/h for {first.gpu} in {first.cloud} cloud"
        return _Rate(usd=first.price_per_hour, told=told)
    if not resource.get_gpus(needs.kind):
        return _Rate(usd=None, told=f"{name}: it gives no GPU, and only an hour of one has a price")
    if resource.gpu_price_per_hour is None:
        return _Rate(usd=None, told=f"{name}: no price of its GPU is declared")
    usd = Decimal(str(resource.gpu_price_per_hour)) / max(1, resource.gpu_shares)
    return _Rate(usd=usd, told=f"{name}: ${usd.normalize():f}/h for a GPU, or a share of one")


def _build_key(each: PlannedSubmission, schedule: Schedule, training: Training) -> DurationKey:
    interval, fold = training
    return DurationKey(
        kind=SlotClass.TRAINING,
        system=each.system,
        config_file=schedule.config_file,
        interval=interval,
        data=each.data,
        seed_count=schedule.seed_count,
        fold=fold,
    )


def _cut(expected: Duration, wall_seconds: float) -> Duration:
    """Return a duration that ends with the longest time that a training may take."""
    return Duration(
        p50_seconds=min(expected.p50_seconds, wall_seconds),
        p90_seconds=min(expected.p90_seconds, wall_seconds),
    )


def _describe(
    submission_id: str,
    training: Training,
    schedule: Schedule,
    *,
    reason: str,
    place: str | None = None,
    position: int | None = None,
    start: Estimate | None = None,
    last: Duration | None = None,
    low: Decimal | None = None,
    high: Decimal | None = None,
    price_reason: str = NO_OUTLOOK,
) -> PlannedTask:
    interval, fold = training
    ends = (
        (start.p50 + _seconds(last.p50_seconds), start.p90 + _seconds(last.p90_seconds))
        if start and last
        else (None, None)
    )
    return PlannedTask(
        submission_id=submission_id,
        task_id=build_task_id(interval, fold),
        interval=interval,
        fold=fold,
        rows=schedule.tell_fold(fold),
        seed=schedule.seed,
        seed_count=schedule.seed_count,
        place=place,
        position=position,
        reason=reason,
        start_p50=start.p50 if start else None,
        start_p90=start.p90 if start else None,
        finish_p50=ends[0],
        finish_p90=ends[1],
        usd_low=_tell(low),
        usd_high=_tell(high),
        price_reason=price_reason,
    )


def _seconds(number: float) -> dt.timedelta:
    return dt.timedelta(seconds=number)


def _sum_up(
    tasks: tuple[PlannedTask, ...], schedule: Schedule, *, remarks: list[str], now: dt.datetime
) -> SchedulePlan:
    priced = [task for task in tasks if task.usd_low is not None and task.usd_high is not None]
    low: Decimal | None = None
    high: Decimal | None = None
    reason = None
    if len(priced) == len(tasks):
        low = sum((Decimal(task.usd_low or 0) for task in priced), Decimal())
        high = sum((Decimal(task.usd_high or 0) for task in priced), Decimal())
    else:
        reasons = dict.fromkeys(task.price_reason for task in tasks if task.usd_low is None)
        count = len(tasks) - len(priced)
        reason = f"{count} of {len(tasks)} trainings have no price: {_join(list(reasons))}"
    if schedule.budget is not None and high is not None and high > schedule.budget:
        remarks = [
            *remarks,
            f"the trainings may cost up to ${high:.2f}, and the budget is ${schedule.budget}: "
            "no pod is rented whose longest life does not fit",
        ]
    ends50 = [task.finish_p50 for task in tasks if task.finish_p50 is not None]
    ends90 = [task.finish_p90 for task in tasks if task.finish_p90 is not None]
    is_known = len(ends50) == len(tasks)
    return SchedulePlan(
        at=now,
        tasks=tasks,
        finish_p50=max(ends50) if is_known else None,
        finish_p90=max(ends90) if is_known else None,
        usd_low=_tell(low),
        usd_high=_tell(high),
        price_reason=reason,
        remarks=tuple(remarks),
    )


def _tell(usd: Decimal | None) -> str | None:
    return None if usd is None else f"{usd:.4f}"


def _join(told: Sequence[str]) -> str:
    more = f"; {len(told) - _TOLD} more" if len(told) > _TOLD else ""
    return "; ".join(told[:_TOLD]) + more
