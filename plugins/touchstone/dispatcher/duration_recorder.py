"""What the dispatcher learns from records: how long tasks take, and how good estimates were."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import datetime

from touchstone.core.durations import ErrorLog, History, describe_task
from touchstone.core.placement_inputs import find_duration
from touchstone.core.records.tasks import EndedTask, StartEstimate, TaskEntry
from touchstone.core.tasks import find_forward
from touchstone.services.troubles import Troubles


class DurationRecorder:
    """
    Takes in records as they change; the same attempt counts once, whichever thread brings it.

    :param history: Durations by likeness.
    :param errors: Estimates against real starts.
    :param troubles: Where records are counted that teach nothing because they make no sense.
    """

    def __init__(
        self, *, history: History, errors: ErrorLog, troubles: Troubles | None = None
    ) -> None:
        self._history = history
        self._errors = errors
        self._lock = threading.Lock()
        self._troubles = troubles or Troubles()
        self._seen: set[tuple[str, str, int, str]] = set()

    def learn_all(self, entries: Iterable[TaskEntry[EndedTask]]) -> None:
        """
        Take in what is on record; what makes no sense teaches nothing, and is counted.

        :param entries: Oldest first, so that the newest is what is kept.
        """
        for entry in entries:
            with self._troubles.guard("learn from", entry.name):
                self._learn(entry.read())

    def learn(self, task: EndedTask) -> None:
        """Take in one task."""
        with self._troubles.guard("learn from", f"{task.submission_id}/{task.task_id}"):
            self._learn(task)

    def _learn(self, task: EndedTask) -> None:
        if task.spec.program is not None or find_forward(task.spec) is not None:
            return  # how long it takes says nothing of any training
        attempt = task.newest
        seconds, placement = find_duration(attempt), attempt.placement
        estimate = placement.estimate if placement else None
        # The loops of events and of pods both bring ends, while the first look is at the old ones.
        with self._lock:
            if seconds is not None and self._is_new(task, "end"):
                self._history.add(describe_task(task.spec), seconds)
            if estimate and attempt.running_at and self._is_new(task, "start"):
                self._check(estimate, attempt.running_at)

    def _check(self, estimate: StartEstimate, started: datetime) -> None:
        made = estimate.made_at
        self._errors.add(
            waited_seconds=(started - made).total_seconds(),
            p50_seconds=(estimate.p50 - made).total_seconds(),
            p90_seconds=(estimate.p90 - made).total_seconds(),
            stretch=float(estimate.stretch or 1.0),
        )

    def _is_new(self, task: EndedTask, what: str) -> bool:
        mark = (task.submission_id, task.task_id, task.newest.fence, what)
        if mark in self._seen:
            return False
        if len(self._seen) > 100_000:
            self._seen.clear()  # counting an old one twice does less harm than growing for ever
        self._seen.add(mark)
        return True
