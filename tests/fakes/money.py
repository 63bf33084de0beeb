"""Budgets and meters in memory: the real public methods on top of dictionaries."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime

from touchstone.core.meter import Entry, EntryKind
from touchstone.core.money import BudgetUse, Posting, Reservation
from touchstone.settings import Settings
from touchstone.stores.meter import UNBILLED_INDEX, Meter
from touchstone.stores.money import Budgets, build_refusal


class FakeBudgets(Budgets):
    """
    Budgets in dictionaries, safe in threads; only the ways in and out are replaced.

    :ivar contentions: How many of the next bookings find others at it.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(client=None, settings=settings or Settings(), sleep=self._pause)
        self._lock = threading.Lock()
        self._reservations: dict[str, Reservation] = {}
        self._used: dict[str, BudgetUse] = {}
        self.contentions = 0
        self.pauses: list[float] = []

    def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def _find(self, pod_name: str) -> Reservation | None:
        with self._lock:
            return self._reservations.get(pod_name)

    def _write(self, posting: Posting) -> bool:
        with self._lock:
            if self.contentions > 0:
                self.contentions -= 1
                return False
            if self._reservations.get(posting.after.pod) != posting.before:
                return False
            for move in posting.moves:
                used = self._find_use(move.scope).used
                if move.ceiling is not None and used > move.ceiling:
                    raise build_refusal(posting, move, used=used)
            for move in posting.moves:
                known = self._find_use(move.scope)
                self._used[move.scope] = known.change(
                    used=known.used + move.used, spent=known.spent + move.spent
                )
            self._reservations[posting.after.pod] = posting.after
            return True

    def _find_use(self, scope: str) -> BudgetUse:
        return self._used.get(scope) or BudgetUse(scope=scope, used=0, spent=0)

    def _read_scopes(self, scope_ids: Sequence[str]) -> dict[str, BudgetUse]:
        with self._lock:
            return {each: self._used[each] for each in scope_ids if each in self._used}

    def _list_open(self) -> list[Reservation]:
        with self._lock:
            return [each for each in self._reservations.values() if not each.is_settled]


class FakeMeter(Meter):
    """Meters in a dictionary; each entry makes the same round trip through a record."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(client=None, settings=settings or Settings())
        self._lock = threading.Lock()
        self._entries: dict[tuple[str, str], Entry] = {}
        self._marked: set[tuple[str, str]] = set()

    def _put(self, entry: Entry) -> Entry:
        key = (entry.rental.pod, entry.id)
        with self._lock:
            standing = self._entries.get(key)
            is_newer_bill = (
                standing is not None
                and entry.kind is EntryKind.BILLED
                and entry.micros != standing.micros
                and entry.at >= standing.at
            )
            if standing is None and entry.kind is EntryKind.CLOSED:
                self._marked.add(key)
            if standing is None or is_newer_bill:
                self._entries[key] = Entry.load(entry.dump())
            return self._entries[key]

    def _set_mark(self, entry: Entry, change: str, values: object) -> None:
        key = (entry.rental.pod, entry.id)
        with self._lock:
            if change.startswith("REMOVE"):
                self._marked.discard(key)
            elif key in self._entries:
                self._marked.add(key)

    def _query(
        self,
        key: str,
        value: str,
        index: str | None = None,
        since: datetime | None = None,
        *,
        skip_unreadable: bool = False,
    ) -> list[Entry]:
        with self._lock:
            if key == UNBILLED_INDEX:
                found = [self._entries[marked] for marked in self._marked]
            else:
                entries = self._entries.values()
                found = [each for each in entries if each.dump()[key] == value]
        return [each for each in found if since is None or each.at >= since]
