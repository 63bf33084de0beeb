"""What the dispatcher learns from records: how long tasks take, and how good estimates were."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from touchstone.core.demand import find_duration
from touchstone.core.durations import ErrorLog, History, describe_task
from touchstone.core.times import read_time
from touchstone.dispatcher.troubles import Troubles
from touchstone.hooks.records import Record

FIELDS = ("kind", "config", "fence", "outcome", "running_at", "exited_at", "placement")
"""What is learnt from, beside the key; a record has ten times as much."""


class Learner:
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

    def learn_all(self, records: Iterable[Record]) -> None:
        """
        Take in what is on record.

        :param records: Oldest first, so that the newest is what is kept.
        """
        for record in records:
            self.learn(record)

    def learn(self, record: Record) -> None:
        """Take in one record; one that makes no sense teaches nothing, and is counted."""
        name = f"{record.get('submission_id')}/{record.get('task_id')}"
        with self._troubles.guard("learn from", name):
            self._learn(record)

    def _learn(self, record: Record) -> None:
        seconds = find_duration(record)
        note = (record.get("placement") or {}).get("estimate")
        # The loops of events and of pods both bring ends, while the first look is at the old ones.
        with self._lock:
            if seconds is not None and self._is_new(record, "end"):
                self._history.add(describe_task(record), seconds)
            if note and record.get("running_at") and self._is_new(record, "start"):
                self._check(note, read_time(record["running_at"]))

    def _check(self, note: dict[str, Any], started: datetime) -> None:
        made, p50, p90 = (read_time(note[key]) for key in ("made_at", "p50", "p90"))
        self._errors.add(
            waited_seconds=(started - made).total_seconds(),
            p50_seconds=(p50 - made).total_seconds(),
            p90_seconds=(p90 - made).total_seconds(),
            stretch=float(note.get("stretch") or 1.0),
        )

    def _is_new(self, record: Record, what: str) -> bool:
        mark = (record["submission_id"], record["task_id"], int(record["fence"]), what)
        if mark in self._seen:
            return False
        if len(self._seen) > 100_000:
            self._seen.clear()  # counting an old one twice does less harm than growing for ever
        self._seen.add(mark)
        return True
