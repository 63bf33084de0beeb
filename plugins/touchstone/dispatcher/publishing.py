"""Tells everybody else what the placement loop sees: positions, reasons, estimates, liveness."""

from __future__ import annotations

import logging
import os
import platform
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from touchstone.core.durations import ErrorLog, History
from touchstone.core.eligibility import Resource
from touchstone.core.estimates import Estimate, estimate
from touchstone.core.outlook import MAX_DURATIONS, OUTLOOK_KEY, build_outlook
from touchstone.core.queue import (
    QUEUE_KEY,
    EstimateError,
    PublishedServer,
    Queue,
    Trouble,
    WaitingTask,
)
from touchstone.core.records.tasks import StartEstimate, TaskKey
from touchstone.dispatcher.placing import Placer, View
from touchstone.services.troubles import Troubles
from touchstone.settings import Settings
from touchstone.stores.objects import ObjectStore
from touchstone_agent.protocol.messages import SlotClass

log = logging.getLogger(__name__)

PUBLISH_SECONDS = 2.0
"""How old the queue may be that people see."""
OUTLOOK_SECONDS = 10.0
"""How old what plans are made from may be."""
DISPATCHER_ID = f"{platform.node()}/{os.getpid()}"


class Publisher:
    """
    Writes the queue where the API finds it, and keeps score of the estimates.

    :param placer: Its view is published; it keeps the first estimates of what it places.
    :param objects: Where it is written.
    :param settings: Names the bucket.
    :param errors: The score.
    :param clock: The time, UTC.
    :param history: How long tasks take; told to those who plan.
    :param troubles: Published, too: what this dispatcher leaves undone.
    """

    def __init__(
        self,
        *,
        placer: Placer,
        objects: ObjectStore,
        settings: Settings,
        errors: ErrorLog,
        clock: Callable[[], datetime],
        history: History | None = None,
        troubles: Troubles | None = None,
    ) -> None:
        self._placer = placer
        self._history = history or History()
        self._outlook_at: datetime | None = None
        self._troubles = troubles or Troubles(clock)
        self._objects = objects
        self._settings = settings
        self._errors = errors
        self._clock = clock
        self._first: dict[TaskKey, StartEstimate] = {}

    def publish(self, *, tick_seconds: float) -> Queue:
        """Write the queue as of the last tick; return what was written."""
        view = self._placer.view
        estimates: Mapping[tuple[str, str], Estimate] = {}
        error = EstimateError()
        # Positions and reasons are worth telling without them.
        with self._troubles.guard("estimate", "starts"):
            estimates = self._estimate(view)
            error = score(self._errors)
        queue = build_queue(
            view,
            estimates,
            dispatcher=DISPATCHER_ID,
            tick_seconds=tick_seconds,
            score=error,
            now=self._clock(),
            troubles=self._troubles.summarise(),
        )
        self._objects.put(
            self._settings.content_bucket,
            QUEUE_KEY,
            queue.model_dump_json(exclude_none=True).encode(),
            content_type="application/json",
        )
        with self._troubles.guard("publish", "what plans are made from"):
            self._publish_outlook(view)
        return queue

    def _publish_outlook(self, view: View) -> None:
        now = self._clock()
        due = timedelta(seconds=OUTLOOK_SECONDS)
        if self._outlook_at is not None and now - self._outlook_at < due:
            return
        outlook = build_outlook(
            view,
            stretch=self._errors.stretch,
            durations=self._history.list_known(SlotClass.TRAINING, limit=MAX_DURATIONS),
        )
        self._objects.put(
            self._settings.content_bucket,
            OUTLOOK_KEY,
            outlook.model_dump_json().encode(),
            content_type="application/json",
        )
        self._outlook_at = now

    def _estimate(self, view: View) -> Mapping[tuple[str, str], Estimate]:
        if not view.waiting:
            self._first = {}
            self._placer.estimates = {}
            return {}
        stretch = self._errors.stretch
        found = estimate(view, stretch=stretch)
        # The first estimate is the one that people plan by, and the one to be judged.
        self._first = {
            key: self._first.get(key)
            or StartEstimate(made_at=view.now, p50=when.p50, p90=when.p90, stretch=stretch)
            for key, when in found.items()
        }
        self._placer.estimates = self._first
        return found


def score(errors: ErrorLog) -> EstimateError:
    """Return how good past estimates were, as it is published."""
    summary = errors.summarise()
    return EstimateError(
        count=summary.count,
        covered=summary.covered_p90,
        median_error_seconds=summary.median_error_seconds,
    )


def build_queue(
    view: View,
    estimates: Mapping[tuple[str, str], Estimate],
    *,
    dispatcher: str,
    tick_seconds: float,
    score: EstimateError,
    now: datetime,
    troubles: tuple[Trouble, ...] = (),
) -> Queue:
    """Return what is published of a tick."""
    waiting = {task.key: task for task in view.waiting}
    totals = Counter(waiting[wait.key].needs.kind for wait in view.plan.waits)
    return Queue(
        at=now,
        dispatcher=dispatcher,
        is_paused=view.is_paused,
        tick_seconds=round(tick_seconds, 4),
        waiting=tuple(
            WaitingTask(
                submission_id=wait.key[0],
                task_id=wait.key[1],
                submitted_by=waiting[wait.key].submitter,
                priority=waiting[wait.key].priority,
                is_validation=waiting[wait.key].needs.kind is SlotClass.VALIDATION,
                position=wait.position,
                of=totals[waiting[wait.key].needs.kind],
                reason=wait.reason,
                since=waiting[wait.key].since,
                p50=estimates[wait.key].p50 if wait.key in estimates else None,
                p90=estimates[wait.key].p90 if wait.key in estimates else None,
            )
            for wait in view.plan.waits
        ),
        servers=tuple(
            PublishedServer(
                name=resource.name,
                platform=resource.platform.value,
                is_alive=resource.is_alive,
                slots=resource.slots,
                free=resource.free,
                validation_slots=resource.validation_slots,
                validation_free=resource.validation_free,
                block=_tell_blocks(resource),
                lingering=resource.get_lingering(SlotClass.TRAINING),
                validation_lingering=resource.get_lingering(SlotClass.VALIDATION),
            )
            for resource in view.resources
        ),
        estimates=score,
        troubles=troubles,
    )


def _tell_blocks(resource: Resource) -> str | None:
    """Return all that a resource does not take at the moment, in one line."""
    held = dict.fromkeys(why for _, why in (*resource.kind_blocks, *resource.held_images))
    return resource.block or "; ".join(held) or None
