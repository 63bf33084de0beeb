"""The records of events, in DynamoDB: one part of the table for each event, and one for all."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from touchstone.core.events import BUILT_IN, DEFAULT, find_known
from touchstone.core.records.events import (
    CATALOGUE,
    ENTRY,
    Entry,
    EntryPlace,
    EventRecord,
    Participant,
    build_participant_key,
)
from touchstone.core.records.stored import StoredRecord, load_named
from touchstone.stores.data_sets import DataStore
from touchstone.stores.records import Found, RecordStore, load_each
from touchstone.stores.tables import RecordExists, RecordNotFound

log = logging.getLogger(__name__)

AnyRecord = TypeVar("AnyRecord", bound=StoredRecord)


class UnknownEvent(RecordNotFound):
    """There is no event of that name."""


class EventStore:
    """
    Reads and writes the records of events.

    What is asked for is one record, or one part of the table: that of an event, which holds its
    entries and participants, or that of all events.

    :param records: The way in and out, with its versions.
    :param table: Where they are.
    """

    def __init__(self, records: RecordStore, table: str) -> None:
        self._records = records
        self._table = table

    @property
    def data_sets(self) -> DataStore:
        """Return where the records of data sets are: in a part of the same table."""
        return DataStore(self._records, self._table)

    # --- events ------------------------------------------------------------------------------

    def list_events(self) -> Found[EventRecord]:
        """Return all events by name, the built-in one among them."""
        stored = self._records.query_part(self._table, "event", CATALOGUE)
        found = load_each(EventRecord, {str(each["entry"]): each for each in stored})
        for error in found.unreadable.values():
            log.error("%s: left out of the list of events", error)
        known = {*(each.name for each in found.records), *found.unreadable}
        if DEFAULT in known:
            return found
        records = (_build_in(), *found.records)
        return Found(
            records=tuple(sorted(records, key=lambda each: each.name)), unreadable=found.unreadable
        )

    def get_event(self, name: str) -> EventRecord:
        """
        Return an event.

        :raises UnknownEvent: If there is none of that name.
        :raises RecordUnreadable: If its record makes no sense.
        """
        found = self._find(EventRecord, CATALOGUE, name)
        if found is not None:
            return found
        if name == DEFAULT:
            return _build_in()
        known = find_known([each.name for each in self.list_events().records])
        raise UnknownEvent(f"event: there is no event {name!r}; there are {known}")

    def change_event(
        self, new: EventRecord, decide: Callable[[EventRecord], EventRecord | None]
    ) -> EventRecord:
        """
        Change an event.

        :param new: What it is where it is not on record yet.
        :param decide: As for :meth:`touchstone.stores.records.RecordStore.change_submission`.
        """
        return self._change(EventRecord, new, _key(new.event, new.entry), decide)

    # --- entries -----------------------------------------------------------------------------

    def find_entry(self, event: str, key: str) -> Entry | None:
        """Return an entry; ``None`` if there is none."""
        return self._find(Entry, event, key)

    def change_entry(self, new: Entry, decide: Callable[[Entry], Entry | None]) -> Entry:
        """
        Change an entry.

        :param new: What it is where it is not on record yet.
        :param decide: As for :meth:`change_event`.
        """
        return self._change(Entry, new, _key(new.event, new.entry), decide)

    def list_entries(self, event: str, *, submission_id: str | None = None) -> Found[Entry]:
        """
        Return the entries of an event, oldest first; of one submission, or of all.

        Those that make no sense are listed apart: a count must not act as if they did not exist.
        """
        begins = ENTRY if submission_id is None else f"{ENTRY}{submission_id}:"
        stored = self._records.query_part(self._table, "event", event, "entry", begins)
        found = load_each(Entry, {str(each["entry"]): each for each in stored})
        records = sorted(found.records, key=lambda each: (each.created_at, each.entry))
        return Found(records=tuple(records), unreadable=found.unreadable)

    def list_places(self, event: str) -> Found[EntryPlace]:
        """Return what the places of all entries of an event come from, and nothing else of them."""
        wanted = EntryPlace.list_wanted()
        stored = self._records.query_part(self._table, "event", event, "entry", ENTRY, wanted)
        return load_each(EntryPlace, {str(each["entry"]): each for each in stored})

    def find_entries(self, event: str, keys: Sequence[str]) -> Found[Entry]:
        """Return some entries of an event in few requests, in the order asked for."""
        stored = self._records.find_all_in_part(self._table, [(event, key) for key in keys])
        known = {key: stored[event, key] for key in keys if (event, key) in stored}
        return load_each(Entry, known)

    # --- participants ------------------------------------------------------------------------

    def find_participant(self, event: str, user: str) -> Participant:
        """Return when somebody has come to an event."""
        key = build_participant_key(user)
        return self._find(Participant, event, key) or Participant(event=event, entry=key)

    def find_participants(self, events: Sequence[str], user: str) -> dict[str, Participant]:
        """
        Return when somebody has come to each of some events, in few requests.

        :raises RecordUnreadable: If one of the records makes no sense.
        """
        key = build_participant_key(user)
        stored = self._records.find_all_in_part(self._table, [(each, key) for each in events])
        found = {
            event: load_named(Participant, f"{event}/{key}", record)
            for (event, _), record in stored.items()
        }
        return {each: found.get(each) or Participant(event=each, entry=key) for each in events}

    def change_participant(
        self, event: str, user: str, decide: Callable[[Participant], Participant | None]
    ) -> Participant:
        """Change when somebody has come; two at once come one after the other."""
        new = Participant(event=event, entry=build_participant_key(user))
        return self._change(Participant, new, _key(new.event, new.entry), decide)

    # --- one way in and out ------------------------------------------------------------------

    def _find(self, model: type[AnyRecord], event: str, entry: str) -> AnyRecord | None:
        stored = self._records.find_in_part(self._table, _key(event, entry))
        return None if stored is None else load_named(model, f"{event}/{entry}", stored)

    def _change(
        self,
        model: type[AnyRecord],
        new: AnyRecord,
        key: Mapping[str, str],
        decide: Callable[[AnyRecord], AnyRecord | None],
    ) -> AnyRecord:
        with contextlib.suppress(RecordNotFound):
            return self._records.change_in_part(self._table, key, model, decide)
        first = decide(new)
        if first is None:
            return new
        try:
            self._records.create_in_part(self._table, "entry", first.dump())
        except RecordExists:
            # Somebody else has written it first: what they wrote is decided upon.
            return self._records.change_in_part(self._table, key, model, decide)
        return first


def _build_in() -> EventRecord:
    return EventRecord(entry=DEFAULT, definition=BUILT_IN, digest=BUILT_IN.digest)


def _key(event: str, entry: str) -> dict[str, str]:
    return {"event": event, "entry": entry}
