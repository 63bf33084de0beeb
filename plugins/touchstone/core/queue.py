"""The published state of the queue: who waits, at which place, why, and until about when. Pure."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

QUEUE_KEY = "dispatcher/queue.json"
"""Key of the published queue in the content bucket."""

STALE = dt.timedelta(seconds=30)
"""Without news for so long, no dispatcher is at work."""


class _Published(BaseModel):
    # A reader may be older than the dispatcher that wrote it.
    model_config = ConfigDict(frozen=True, extra="ignore")


class WaitingTask(_Published):
    """
    A task that waits for a slot.

    :param submitted_by: Whose it is, who may see it beside admins; empty in what a dispatcher
        wrote that did not say.
    :param priority: What it waits by: its schedule's, or what an admin has made of it.
    :param is_validation: Whether it waits for a slot for validations; those have a queue of their
        own.
    :param position: Its place among the waiting tasks of its kind; 1 is next.
    :param of: How many of its kind wait.
    :param reason: Why it waits, one line.
    :param since: Since when.
    :param p50: When it starts, as likely earlier as later; ``None`` if nobody can say.
    :param p90: By when it starts in nine cases of ten.
    """

    submission_id: str
    task_id: str
    submitted_by: str = ""
    priority: int = 0
    is_validation: bool = False
    position: int
    of: int
    reason: str
    since: dt.datetime
    p50: dt.datetime | None = None
    p90: dt.datetime | None = None


class PublishedServer(_Published):
    """
    A server or RunPod as placement sees it.

    :param block: Why it takes nothing, or nothing of a kind, at the moment.
    :param lingering: Slots for trainings that are held by attempts which are being ended.
    :param validation_lingering: The same of its slots for validations.
    """

    name: str
    platform: str
    is_alive: bool
    slots: int
    free: int
    validation_slots: int
    validation_free: int
    block: str | None = None
    lingering: int = 0
    validation_lingering: int = 0


class Trouble(_Published):
    """
    What a dispatcher leaves undone, while it goes on with the rest.

    :param what: The kind of work, as in "could not ...".
    :param items: For how many items it fails now.
    :param times: How often it has failed since the dispatcher began.
    :param item: The one that failed last; may be empty.
    :param reason: Why, one line.
    :param at: When it failed last.
    """

    what: str
    items: int
    times: int
    item: str
    reason: str
    at: dt.datetime


class EstimateError(_Published):
    """
    How good past estimates were.

    :param count: Starts that had been estimated.
    :param covered: Share of them that came no later than the p90 said; ``None`` before the first.
    :param median_error_seconds: Median distance of the start from the p50.
    """

    count: int = 0
    covered: float | None = None
    median_error_seconds: float | None = None


class Queue(_Published):
    """
    What a dispatcher published last.

    :param at: When.
    :param dispatcher: Who: host and process.
    :param is_paused: Whether placements are paused.
    :param tick_seconds: How long its last round of decisions took.
    :param troubles: What it leaves undone.
    """

    schema_version: Annotated[int, Field(ge=1)] = 1
    at: dt.datetime
    dispatcher: str
    is_paused: bool = False
    tick_seconds: float = 0.0
    waiting: tuple[WaitingTask, ...] = ()
    servers: tuple[PublishedServer, ...] = ()
    estimates: EstimateError = EstimateError()
    troubles: tuple[Trouble, ...] = ()

    def is_stale(self, now: dt.datetime) -> bool:
        """Tell whether the dispatcher that wrote this is at work no more."""
        return now - self.at > STALE

    def find(self, submission_id: str, task_id: str) -> WaitingTask | None:
        """Return a waiting task, or ``None``."""
        return next(
            (
                task
                for task in self.waiting
                if (task.submission_id, task.task_id) == (submission_id, task_id)
            ),
            None,
        )
