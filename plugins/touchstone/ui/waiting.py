"""The published queue as the API tells it: who waits, and whether anybody places."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection
from datetime import datetime

from pydantic import JsonValue, ValidationError

from touchstone.cache import Cached
from touchstone.core.answers.fleet import DispatcherState, DispatcherWork
from touchstone.core.outlook import OUTLOOK_KEY, Outlook
from touchstone.core.queue import QUEUE_KEY, Queue, WaitingTask
from touchstone.settings import Settings
from touchstone.stores.objects import ObjectNotFound, ObjectStore, ObjectTooLarge

MAX_QUEUE_BYTES = 64 * 1024**2
"""Tens of thousands of tasks that wait."""

NEVER_SEEN = "no dispatcher has ever been at work here: nothing will be placed"


class QueueReader:
    """
    Reads the published queue, at most once a second in a process.

    :param objects: Where it is.
    :param settings: Names the bucket.
    """

    def __init__(
        self,
        objects: ObjectStore,
        settings: Settings,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._objects = objects
        self._bucket = settings.content_bucket
        self._cached = Cached(self._load, seconds=1.0, monotonic=monotonic)

    def read(self) -> Queue | None:
        """
        Return the queue, or ``None`` if no dispatcher ever published one.

        :raises TransientError: If the store does not answer.
        """
        return self._cached()

    def _load(self) -> Queue | None:
        try:
            text = self._objects.get(self._bucket, QUEUE_KEY, max_bytes=MAX_QUEUE_BYTES)
            return Queue.model_validate_json(text)
        except (ObjectNotFound, ObjectTooLarge, ValidationError):
            # One that a much newer dispatcher wrote is as good as none.
            return None


def read_outlook(objects: ObjectStore, settings: Settings) -> Outlook | None:
    """
    Return what plans are made from, or ``None`` if no dispatcher ever published it.

    :raises TransientError: If the store does not answer.
    """
    try:
        text = objects.get(settings.content_bucket, OUTLOOK_KEY, max_bytes=MAX_QUEUE_BYTES)
        return Outlook.model_validate_json(text)
    except (ObjectNotFound, ObjectTooLarge, ValidationError):
        return None


def describe_dispatcher(queue: Queue | None, now: datetime) -> DispatcherState:
    """Return whether a dispatcher is at work, and what to tell people if not."""
    if queue is None:
        return DispatcherState(warning=NEVER_SEEN)
    warning = None
    if queue.is_stale(now):
        warning = (
            f"no dispatcher is at work since {queue.at:%Y-%m-%d %H:%M:%S} UTC: "
            "nothing will be placed until one is"
        )
    elif queue.is_paused:
        warning = "placements are paused: nothing new starts until `touchstone resume`"
    return DispatcherState(
        is_alive=not queue.is_stale(now),
        is_paused=queue.is_paused,
        seen_at=queue.at.isoformat(),
        warning=warning,
    )


def describe_work(queue: Queue | None, now: datetime) -> DispatcherWork:
    """Return what admins want to know of the dispatcher."""
    known = queue if queue is not None and not queue.is_stale(now) else None
    return DispatcherWork(
        **dict(describe_dispatcher(queue, now)),
        troubles=known.troubles if known else (),
        lingering={
            server.name: server.lingering + server.validation_lingering
            for server in (known.servers if known else ())
            if server.lingering + server.validation_lingering
        },
    )


def show_waiting(
    queue: Queue | None, submission_id: str, task_id: str
) -> dict[str, JsonValue] | None:
    """Return a task's position, reason and estimate; ``None`` if it does not wait."""
    return show(queue.find(submission_id, task_id)) if queue else None


def group_waiting(queue: Queue | None) -> dict[str, list[WaitingTask]]:
    """Return the waiting tasks by submission, in one pass for as many as are shown."""
    found: dict[str, list[WaitingTask]] = defaultdict(list)
    for task in queue.waiting if queue else ():
        found[task.submission_id].append(task)
    return found


def show_first(waiting: Collection[WaitingTask]) -> dict[str, JsonValue] | None:
    """Return of a submission's waiting tasks the one that is next, ``None`` if none waits."""
    shown = show(min(waiting, key=lambda task: task.position, default=None))
    return shown and {**shown, "tasks": len(waiting)}


def show(task: WaitingTask | None) -> dict[str, JsonValue] | None:
    """Return a waiting task as plain values."""
    hidden = {"submission_id", "submitted_by"}
    return None if task is None else task.model_dump(mode="json", exclude=hidden)
