"""The audit: who did what when, in two parts of the events' table for each act."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from touchstone.core.paging import Place
from touchstone.core.records.actions import Action
from touchstone.core.records.audit import AuditEntry, SubjectKind, build_part, build_place
from touchstone.stores.records import RecordStore, load_each

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AuditPage:
    """
    Some acts, the newest first.

    :param entries: Those that make sense.
    :param unreadable: How many others there are.
    :param next: Where the page ended, for the next one to go on; ``None`` at the end.
    """

    entries: tuple[AuditEntry, ...]
    unreadable: int
    next: Place | None


class AuditStore:
    """
    Reads acts. The record store writes them, with what they change.

    :param records: The way in and out.
    :param table: Where they are.
    """

    def __init__(self, records: RecordStore, table: str) -> None:
        self._records = records
        self._table = table

    def list_newest(
        self,
        *,
        limit: int,
        before: Place | None = None,
        kind: SubjectKind | None = None,
        name: str = "",
    ) -> AuditPage:
        """
        Return the newest acts; what that costs does not depend on how many there are.

        :param limit: How many at most.
        :param before: Only those behind this place; ``None`` from the newest on.
        :param kind: Only those on a subject of this kind; ``None`` for all acts.
        :param name: Which subject.
        """
        part = build_part(kind, name)
        stored = self._records.list_part_newest(
            self._table,
            {"event": part},
            "entry",
            limit=limit + 1,
            below=" ".join(before) if before else None,
        )
        shown = stored[:limit]
        found = load_each(AuditEntry, {str(each["entry"]): each for each in shown})
        for error in found.unreadable.values():
            log.error("%s: left out of the audit", error)
        following = None
        if len(stored) > limit:
            at, _, digest = str(shown[-1]["entry"]).partition(" ")
            following = Place(at, digest)
        return AuditPage(entries=found.records, unreadable=len(found.unreadable), next=following)

    def find_earlier(self, kind: SubjectKind, name: str, actions: Sequence[Action]) -> list[Action]:
        """
        Return the acts that a record has and the audit has not, the newest first.

        A version before the audit has written those.

        :param kind: What they changed.
        :param name: Which one.
        :param actions: The record's, of which there are few.
        """
        part = build_part(kind, name)
        places = {" ".join(build_place(kind, name, action)): action for action in actions}
        known = self._records.find_places(self._table, [(part, place) for place in places])
        return [places[each] for each in sorted(places, reverse=True) if (part, each) not in known]
