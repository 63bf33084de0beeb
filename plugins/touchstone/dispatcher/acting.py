"""Brings what people do in Airflow to the records of the submissions that they do it to."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, Protocol

from touchstone.airflow_db.acts import Entry
from touchstone.core.authority import find_named_submission
from touchstone.core.records.actions import add_action
from touchstone.core.records.notes import Control, Cursor
from touchstone.core.records.submissions import CancelRequest, Submission
from touchstone.core.states import SUBMISSION_OPEN
from touchstone.stores.records import RecordStore
from touchstone_agent.protocol.errors import PermanentError

log = logging.getLogger(__name__)

BATCH: Final = 100
SETTLE: Final = timedelta(seconds=3)
"""Entries may become visible in another order than they were written, but not by so much."""
ANSWER: Final = timedelta(seconds=60)
"""How long an answer is waited for; after that its process has died, or answers later."""


class Airflow(Protocol):
    """What is needed of Airflow's log."""

    def read_entries(self, *, after: int, before: datetime, limit: int) -> list[Entry]:
        """Return what was noted, oldest first."""

    def find_last_id(self) -> int:
        """Return the id of the newest entry; 0 for none."""


class Chronicler:
    """
    Adds to each submission's actions what was done to its runs in Airflow.

    Each entry is noted once, by any of several processes: it carries a mark that identifies it. The
    place that was reached is written down after what was read is on record, never before.

    :param airflow: Airflow's log.
    :param records: The records.
    :param clock: The time, UTC.
    """

    def __init__(
        self, *, airflow: Airflow, records: RecordStore, clock: Callable[[], datetime]
    ) -> None:
        self._airflow = airflow
        self._records = records
        self._clock = clock

    def run(self) -> None:
        """Note what is new."""
        after = self._find_place()
        while True:
            now = self._clock()
            found = self._airflow.read_entries(after=after, before=now - SETTLE, limit=BATCH)
            ready = []
            for entry in found:
                if entry.status is None and now - entry.at < ANSWER:
                    break  # Its answer decides whether anything was done.
                ready.append(entry)
            for entry in ready:
                try:
                    self._note(entry)
                except PermanentError as error:
                    # One that no record takes must not keep the others from theirs.
                    log.error("entry %s of Airflow's log is on no record: %s", entry.id, error)
            if ready:
                after = self._move_to(ready[-1].id)
            if len(ready) < BATCH:
                return

    def _find_place(self) -> int:
        """Return where to go on: what was done before the first start is history."""
        last = self._airflow.find_last_id()
        after = self._records.find_note(Cursor).after
        if after is None:
            return self._move_to(last)
        if after > last:
            log.warning("Airflow's log begins anew, and is read from its beginning")
            self._records.put_note(Cursor(after=0))
            return 0
        return after

    def _move_to(self, entry_id: int) -> int:
        def decide(note: Cursor) -> Cursor | None:
            # Another dispatcher may be further already.
            is_further = note.after is None or entry_id > note.after
            return note.change(after=entry_id) if is_further else None

        return self._records.change_note(Cursor, decide).after or 0

    def _note(self, entry: Entry) -> None:
        if entry.status is not None and entry.status >= 400:
            return  # It was refused: nothing was done.
        words = f"{entry.act.words} in Airflow"
        if entry.status is None:
            words = f"asked Airflow for this, and nobody knows what came of it: {words}"
        if entry.act.run_id is None:
            self._records.change_note(Control, lambda found: _add_to_control(found, entry, words))
            return
        submission_id = find_named_submission(entry.act.run_id, entry.named)
        if submission_id is None or self._records.find_submission(submission_id) is None:
            return

        def decide(found: Submission) -> Submission | None:
            if entry.act.run_id not in found.run_ids:
                return None  # A run that was refused, and is none of this submission.
            if any(action.act == entry.uid for action in found.actions):
                return None
            noted = found.note_action(at=entry.at, by=entry.by, action=words, act=entry.uid)
            if not _is_ended_by(found, entry):
                return noted
            reason = f"its DAG run was deleted by {entry.by}"
            return noted.change(cancel=CancelRequest(by=entry.by, at=entry.at, reason=reason))

        self._records.change_submission(submission_id, decide)


def _add_to_control(found: Control, entry: Entry, words: str) -> Control | None:
    if any(action.act == entry.uid for action in found.actions):
        return None
    actions = add_action(found.actions, at=entry.at, by=entry.by, action=words, act=entry.uid)
    return found.change(actions=actions)


def _is_ended_by(found: Submission, entry: Entry) -> bool:
    """Tell whether the run that was at work on a submission is gone: nobody else closes it."""
    return bool(
        entry.act.is_deletion
        and entry.status is not None
        and found.status in SUBMISSION_OPEN
        and found.newest_run_id == entry.act.run_id
        and not found.cancel
    )
