"""Events brought to their records, and what enters them; see :mod:`touchstone.core.events`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from touchstone.core.answers.sources import EventQuota
from touchstone.core.data_sets import CANNED, PinnedData
from touchstone.core.event_rules import (
    build_try,
    find_fixed_change,
    find_mismatch,
    find_objection,
    find_refused_waivers,
    settle_event,
    takes_waivers,
)
from touchstone.core.events import DEFAULT, FLAT, Event, EventRefused
from touchstone.core.names import is_submission_id
from touchstone.core.records.actions import add_action
from touchstone.core.records.data_sets import DataRecord
from touchstone.core.records.events import (
    MAX_USES,
    Entry,
    EventRecord,
    Participant,
    Use,
    build_entry_key,
)
from touchstone.core.records.stored import RecordUnreadable
from touchstone.core.schedule import Schedule
from touchstone.core.states import SubmissionStatus
from touchstone.settings import Settings
from touchstone.stores.data_sets import UnknownData
from touchstone.stores.events import EventStore, UnknownEvent
from touchstone.stores.records import RecordStore
from touchstone_agent.protocol.errors import ConfigurationError

log = logging.getLogger(__name__)

MAX_QUOTAS = 50
"""Of so many events quotas are told at once: each costs a read or two."""

INFRASTRUCTURE = "infrastructure"
"""Fault of an entry that counts against no quota."""


@dataclass(frozen=True, kw_only=True)
class Applied:
    """
    What came of applying an event's file.

    :param event: The event, as it is now.
    :param is_changed: Whether anything was written.
    """

    event: EventRecord
    is_changed: bool


class EventKeeper:
    """
    Writes events down, and keeps their doors.

    :param records: The records of submissions.
    :param events: The records of events.
    :param clock: The time, UTC.
    """

    def __init__(
        self, records: RecordStore, events: EventStore, clock: Callable[[], datetime]
    ) -> None:
        self._records = records
        self._events = events
        self._clock = clock

    @classmethod
    def build(cls, records: RecordStore, settings: Settings, clock: Callable[[], datetime]) -> Self:
        """Return one that keeps the installation's events."""
        return cls(records, EventStore(records, settings.events_table), clock)

    @property
    def store(self) -> EventStore:
        """Return where the records of events are."""
        return self._events

    # --- what admins do ----------------------------------------------------------------------

    def apply(self, name: str, event: Event, *, by: str) -> Applied:
        """
        Write down what an event's file says; the same file again changes nothing.

        Entries, verdicts and who has come stay as they are, and so does a baseline that an admin
        has set, unless the file names one. So does the version of the data, unless the file names
        another: the newest one is looked up once.

        :raises ConfigurationError: If there is no such data set, or it changes data, rows,
            intervals or arrivals that verdicts rest on.
        """
        now, was_changed = self._clock(), False
        try:
            before = self._events.get_event(name)
        except UnknownEvent:
            before = None
        data = self._find_data_set(name, event, before)
        settled = settle_event(
            event,
            name,
            data.definition if data else None,
            is_private=data is not None and data.is_private,
        )
        self._check_change(name, before, settled)
        new = EventRecord(entry=name, definition=settled, digest=event.digest)

        def decide(found: EventRecord) -> EventRecord | None:
            nonlocal was_changed
            was_changed = not (found.digest == event.digest and found.version)
            if not was_changed:
                return None
            return found.change(
                definition=settled,
                digest=event.digest,
                actions=add_action(found.actions, at=now, by=by, action="event apply"),
            )

        return Applied(event=self._events.change_event(new, decide), is_changed=was_changed)

    def _find_data_set(
        self, name: str, event: Event, before: EventRecord | None
    ) -> DataRecord | None:
        """Return the data set that an event's file means; ``None`` for the built-in one."""
        wanted = event.data
        if wanted.name == CANNED:
            return None
        version = wanted.version
        if version is None and before is not None and before.definition.data.name == wanted.name:
            version = before.definition.data.version
        try:
            found = self._find_version(wanted.name, version)
        except UnknownData as error:
            raise ConfigurationError(f"event {name}: {error}") from error
        if not found.is_complete:
            raise ConfigurationError(
                f"event {name}: data: {found.entry!r} was not stored to its end; an admin adds it "
                "again with `touchstone data add DIR`"
            )
        return found

    def _find_version(self, name: str, version: str | None) -> DataRecord:
        if version is not None:
            return self._events.data_sets.get_data_set(name, version)
        versions = self._events.data_sets.list_versions(name)
        return next((each for each in versions if each.is_complete), versions[0])

    def _check_change(self, name: str, before: EventRecord | None, event: Event) -> None:
        if before is None:
            return
        changed = find_fixed_change(before.definition, event)
        if changed is None:
            return
        entries = self._events.list_entries(name)
        is_figures = before.definition.shares_scores_only
        if entries.unreadable or any(
            entry.series or (is_figures and entry.verdict) for entry in entries.records
        ):
            raise ConfigurationError(
                f"event {name}: {changed}: verdicts rest on what it is; write an event of another "
                "name"
            )

    def set_baseline(self, name: str, baseline: str, *, by: str) -> EventRecord:
        """
        Set what the submissions of an event are compared with from now on.

        :param baseline: A submission that has succeeded, or ``flat``.
        :raises ConfigurationError: If it is neither, or the event's file names another.
        """
        event, now = self._events.get_event(name), self._clock()
        if event.definition.shares_scores_only:
            raise ConfigurationError(
                f"baseline: the event {name!r} shares scores alone, so nothing is compared here; "
                "its board is ordered by the scores of the servers' judges"
            )
        in_file = event.definition.judging.baseline
        if in_file is not None and in_file != baseline:
            raise ConfigurationError(
                f"baseline: the file of the event {name!r} names {in_file!r}; change it there"
            )
        self._check_baseline(baseline)

        def decide(found: EventRecord) -> EventRecord | None:
            if found.baseline == baseline:
                return None
            action = f"event baseline {baseline}"
            return found.change(
                baseline=baseline,
                actions=add_action(found.actions, at=now, by=by, action=action),
            )

        return self._events.change_event(event, decide)

    def _check_baseline(self, baseline: str) -> None:
        if baseline == FLAT:
            return
        found = self._records.find_submission(baseline) if is_submission_id(baseline) else None
        if found is None or found.status is not SubmissionStatus.SUCCESS or found.replay_of:
            state = "there is none" if found is None else f"it is {found.status}"
            if found is not None and found.replay_of:
                state = f"it is a replay; name what it replays, {found.replay_of}"
            raise ConfigurationError(
                f"baseline: {baseline!r} is neither {FLAT!r} nor a successful submission: {state}"
            )

    # --- what participants do ----------------------------------------------------------------

    def find_data(self, name: str) -> PinnedData | None:
        """Return what is trained on for an event; ``None`` for the built-in data set."""
        return find_data(self._events, self._events.get_event(name).definition)

    def find_objection(self, name: str, user: str) -> str | None:
        """Say why an event takes nothing of a user now; ``None`` if it does."""
        event = self._events.get_event(name)
        participant = self._events.find_participant(name, user)
        free = self._find_free(event, participant)
        return self._object(event, user, participant, free)

    def list_quotas(self, user: str) -> tuple[EventQuota, ...]:
        """Return what each event still takes of a user now; those left out that he is not of."""
        events = [
            event
            for event in self._events.list_events().records[:MAX_QUOTAS]
            if not event.definition.participants or user in event.definition.participants
        ]
        known = self._events.find_participants([event.name for event in events], user)
        found = []
        for event in events:
            participant = known[event.name]
            free = self._find_free(event, participant)
            quota = event.definition.quota
            left = None
            if quota is not None:
                since = self._clock() - timedelta(hours=quota.hours)
                uses = [u for u in participant.uses if u.at > since and u.entry not in free]
                left = max(0, quota.submissions - len(uses))
            found.append(
                EventQuota(
                    event=event.name,
                    limit=quota.submissions if quota else None,
                    hours=quota.hours if quota else None,
                    left=left,
                    objection=self._object(event, user, participant, free),
                )
            )
        return tuple(found)

    def check_entry(self, schedule: Schedule, *, user: str, waived: Sequence[str] = ()) -> None:
        """
        Refuse a schedule that its event would refuse now; nothing is put on record.

        :param user: Whose submission it is.
        :param waived: Its waived columns.
        :raises EventRefused: If the event does not take it; the message says from when on it does.
        """
        name = schedule.event
        try:
            event = self._events.get_event(name)
        except UnknownEvent as error:
            raise EventRefused(str(error)) from error
        _check_fit(event, schedule, waived)
        if objection := self.find_objection(name, user):
            raise EventRefused(f"event: {objection}")

    def enter(
        self,
        schedule: Schedule,
        *,
        submission_id: str,
        run_id: str,
        user: str,
        waived: Sequence[str] = (),
    ) -> Entry:
        """
        Let a schedule of a submission enter its event, once, however often a step is repeated.

        Its place in the quota is taken before anything is fetched or runs, in one write that two
        at once cannot both make.

        :param user: Whose submission it is.
        :param waived: Its waived columns.
        :raises EventRefused: If the event does not take it; the message says from when on it does.
        """
        name, now = schedule.event, self._clock()
        event = self._events.get_event(name)
        _check_fit(event, schedule, waived)
        key = build_entry_key(submission_id, build_try(run_id, schedule))
        free = self._find_free(event, self._events.find_participant(name, user))

        def decide(found: Participant) -> Participant | None:
            if any(use.entry == key for use in found.uses):
                return None
            if objection := self._object(event, user, found, free):
                raise EventRefused(f"event: {objection}")
            return found.change(uses=(*found.uses, Use(entry=key, at=now))[-MAX_USES:])

        self._events.change_participant(name, user, decide)
        return self.put_entry(
            schedule, submission_id=submission_id, run_id=run_id, user=user, waived=waived
        )

    def put_entry(
        self,
        schedule: Schedule,
        *,
        submission_id: str,
        run_id: str,
        user: str,
        waived: Sequence[str] = (),
    ) -> Entry:
        """Put an entry on record, if it is not there; return it."""
        new = Entry(
            event=schedule.event,
            entry=build_entry_key(submission_id, build_try(run_id, schedule)),
            submission_id=submission_id,
            run_id=run_id,
            user=user,
            created_at=self._clock(),
            waived_columns=tuple(waived),
        )
        # Anything but None: one that is there already stays as it is.
        return self._events.change_entry(new, lambda found: found)

    def _object(
        self, event: EventRecord, user: str, participant: Participant, free: Collection[str]
    ) -> str | None:
        return find_objection(
            event.definition,
            event.name,
            user=user,
            uses=[use.at for use in participant.uses if use.entry not in free],
            closed_at=event.closed_at,
            now=self._clock(),
        )

    def _find_free(self, event: EventRecord, participant: Participant) -> frozenset[str]:
        """Return which of a participant's entries count against no quota."""
        quota = event.definition.quota
        if quota is None:
            return frozenset()
        since = self._clock() - timedelta(hours=quota.hours)
        recent = [use.entry for use in participant.uses if use.at > since]
        return frozenset(key for key in recent if self._is_free(event.name, key))

    def _is_free(self, event: str, key: str) -> bool:
        try:
            entry = self._events.find_entry(event, key)
            if entry is None:
                # Taken a moment ago, and perhaps never used; it counts until that is known.
                return False
            if entry.fault == INFRASTRUCTURE:
                return True
            submission = self._records.find_submission(entry.submission_id)
        except RecordUnreadable as error:
            log.error("%s: it counts against the quota", error)
            return False
        return (
            submission is not None
            and submission.status is SubmissionStatus.REJECTED
            and submission.newest_run_id == entry.run_id
        )


def find_data(events: EventStore, event: Event) -> PinnedData | None:
    """
    Return what is trained on for an event, with its rows; ``None`` for the built-in data set.

    :raises UnknownData: If the data set is gone.
    """
    data, rows = event.data, event.rows
    if data.version is None or rows.validation_from is None or rows.test_from is None:
        return None
    found = events.data_sets.get_data_set(data.name, data.version)
    return PinnedData(
        name=data.name,
        version=data.version,
        digest=found.digest,
        sha256=found.sha256,
        size=found.size,
        validation_from=rows.validation_from,
        test_from=rows.test_from,
        test_to=rows.test_to,
        bars_per_year=found.definition.bars_per_year,
        is_private=found.is_private,
    )


def _check_fit(event: EventRecord, schedule: Schedule, waived: Sequence[str]) -> None:
    """Refuse what an event takes of nobody."""
    reason = find_mismatch(event.definition, event.name, schedule) or find_refused_waivers(
        event.definition, event.name, waived
    )
    if reason:
        raise EventRefused(reason)


def show_event(event: EventRecord) -> dict[str, object]:
    """Return an event as it is shown."""
    return {
        "event": event.name,
        **event.definition.model_dump(mode="json"),
        "waivers": takes_waivers(event.definition, event.name),
        "digest": event.digest,
        "baseline": event.chosen_baseline,
        "closed_at": event.closed_at.isoformat() if event.closed_at else None,
        "is_on_record": event.version > 0,
        "is_default": event.name == DEFAULT,
        "actions": [action.dump() for action in event.actions],
    }
