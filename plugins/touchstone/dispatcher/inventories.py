"""Compares what servers run with what the records say, and brings the two together."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from touchstone.core.inventory import (
    Known,
    ReportedAttempt,
    Stray,
    find_stray,
    identify,
    is_expected,
    is_missing,
    read_inventory,
)
from touchstone.core.records.servers import Server
from touchstone.core.records.tasks import Task, TaskEntry, TaskKey
from touchstone.hooks.agent import AgentHook
from touchstone.services.troubles import Troubles
from touchstone.settings import Settings
from touchstone.stores.records import RecordStore
from touchstone_agent.protocol.messages import AttemptRef, Cancel, Sync

log = logging.getLogger(__name__)

CANCEL_SECONDS = 15.0
"""Between two cancels of the same stray: its agent needs a moment to end a container."""
SYNC_SECONDS = 60.0
"""Between two lists of what a server should run: it gives the missing half a minute to arrive."""
MISSING_GRACE = timedelta(seconds=60)
"""How long ago the last news of a missing attempt must be."""
UNKNOWN_GRACE = timedelta(seconds=120)
"""How long a record must have been missing before what it was of is ended."""

_Suspect = tuple[str, str, str, int]
"""A server, and an attempt by submission, task and fence."""


class InventoryCheck:
    """
    Ends what runs and should not, and looks for what should run and does not.

    Inventory and records are read a moment apart, and news may be on its way, so that a difference
    counts only once a later heartbeat shows it, too; but for what is outranked: nothing it does
    counts any more, whatever is on its way.

    :param records: The records.
    :param agent: Speaks to agents.
    :param settings: The environment, and how long a server may be silent.
    :param clock: The time, UTC.
    :param troubles: Where is counted what could not be done.
    """

    def __init__(
        self,
        *,
        records: RecordStore,
        agent: AgentHook,
        settings: Settings,
        clock: Callable[[], datetime],
        troubles: Troubles,
    ) -> None:
        self._records = records
        self._agent = agent
        self._env = settings.env
        self._silence = timedelta(seconds=settings.silence_seconds)
        self._clock = clock
        self._troubles = troubles
        self._first_seen: dict[_Suspect, tuple[datetime, datetime]] = {}
        self._seen: set[_Suspect] = set()
        self._cancelled_at: dict[_Suspect, datetime] = {}
        self._synced_at: dict[str, datetime] = {}

    def compare(self, tasks: Iterable[TaskEntry[Task]]) -> None:
        """
        Compare once.

        :param tasks: The tasks that have an attempt under way on a server, as of a moment ago; also
            those whose records make no sense. What those are of goes on, and is asked for nowhere.
        """
        now = self._clock()
        by_server: dict[str, list[TaskEntry[Task]]] = defaultdict(list)
        for task in tasks:
            by_server[str(task.stored.get("server"))].append(task)
        self._seen = set()
        for entry in self._records.list_servers():
            name = entry.name
            # Of one whose record makes no sense nothing is ended, and nothing taken for missing.
            with self._troubles.guard("compare the inventory of", name):
                server = entry.read()
                heard = self._find_heard(server, now)
                if heard is not None:
                    self._compare_server(name, list(read_inventory(server)), by_server[name], heard)
        recent = now - timedelta(seconds=10 * SYNC_SECONDS)
        self._first_seen = {key: at for key, at in self._first_seen.items() if key in self._seen}
        self._cancelled_at = {key: at for key, at in self._cancelled_at.items() if at > recent}

    def _find_heard(self, server: Server, now: datetime) -> datetime | None:
        """Return when a server of this environment was heard of, if that was lately."""
        heard = server.heartbeat_at
        if heard is None or server.env not in {None, self._env}:
            return None
        return heard if now - heard <= self._silence else None

    def _compare_server(
        self,
        server: str,
        running: list[ReportedAttempt],
        tasks: list[TaskEntry[Task]],
        heard: datetime,
    ) -> None:
        known = {entry.key: entry for entry in tasks}
        present = {identify(held.ref) for held in running}
        late = {
            key for key, entry in known.items() if self._is_missing(entry, server, present, heard)
        }
        odd = {held.key for held in running if self._find_stray(held, known, server)}
        # What was read a moment ago need not be so any more; and an index may lag behind.
        self._read_again(odd | late, known)
        for held in running:
            stray = self._find_stray(held, known, server)
            if stray is not None and self._is_certain(server, held.ref, stray, heard):
                self._end(server, held.ref, stray)
        missing = [
            known[key].read()
            for key in sorted(late & known.keys())
            if self._is_missing(known[key], server, present, heard)
        ]
        # Each of them, not only the first: all must be remembered.
        certain = [task for task in missing if self._is_seen_twice(server, task.ref, heard)]
        self._look_for(server, certain, known, running)

    def _find_stray(
        self, held: ReportedAttempt, known: Mapping[TaskKey, TaskEntry[Task]], server: str
    ) -> Stray | None:
        with self._troubles.guard("compare what runs of", held.key):
            entry = known.get(held.key)
            return find_stray(held, entry.read() if entry is not None else None, server)
        return None

    def _is_missing(
        self, entry: TaskEntry[Task], server: str, present: Collection[Known], heard: datetime
    ) -> bool:
        with self._troubles.guard("tell whether a server lacks", entry.key):
            return is_missing(entry.read(), server, present, heard - MISSING_GRACE)
        return False

    def _read_again(self, keys: set[TaskKey], known: dict[TaskKey, TaskEntry[Task]]) -> None:
        if keys:
            for key in keys:
                known.pop(key, None)
            known |= self._records.find_tasks(sorted(keys))

    def _is_certain(self, server: str, ref: AttemptRef, stray: Stray, heard: datetime) -> bool:
        is_seen_twice = self._is_seen_twice(server, ref, heard)
        if stray is Stray.OUTRANKED:
            return True
        if stray is Stray.ENDED:
            return is_seen_twice
        # A store that was put back is not to end everything within seconds.
        first_at, _ = self._first_seen[_suspect(server, ref)]
        return is_seen_twice and self._clock() - first_at >= UNKNOWN_GRACE

    def _is_seen_twice(self, server: str, ref: AttemptRef, heard: datetime) -> bool:
        """Tell whether the difference was there in an earlier heartbeat; remember that it is."""
        key = _suspect(server, ref)
        self._seen.add(key)
        _, first_heard = self._first_seen.setdefault(key, (self._clock(), heard))
        return heard > first_heard

    def _end(self, server: str, ref: AttemptRef, stray: Stray) -> None:
        key, now = _suspect(server, ref), self._clock()
        sent_at = self._cancelled_at.get(key)
        if sent_at is not None and now - sent_at < timedelta(seconds=CANCEL_SECONDS):
            return
        with self._troubles.guard("end on a server", key):
            log.warning("%s runs fence %s of %s: %s", server, ref.fence, ref.task_key, stray)
            self._agent.send(server, Cancel(ref=ref, reason=stray.value))
            self._cancelled_at[key] = now

    def _look_for(
        self,
        server: str,
        missing: list[Task],
        known: Mapping[TaskKey, TaskEntry[Task]],
        running: Sequence[ReportedAttempt],
    ) -> None:
        """
        Ask a server for attempts that it does not show.

        It tells again how those ended that it knows, and reports the others as lost.
        """
        now = self._clock()
        last = self._synced_at.get(server)
        if last is not None and now - last < timedelta(seconds=SYNC_SECONDS):
            return
        if not missing:
            # Once more after the last time: what had just begun then was not in that list, and is
            # taken for a stray until it is in one.
            if self._synced_at.pop(server, None) is not None:
                self._send_sync(server, known, running)
            return
        for task in missing:
            ref = task.ref
            log.warning("%s does not show fence %s of %s", server, ref.fence, ref.task_key)
        self._send_sync(server, known, running)
        self._synced_at[server] = now

    def _send_sync(
        self,
        server: str,
        known: Mapping[TaskKey, TaskEntry[Task]],
        running: Sequence[ReportedAttempt],
    ) -> None:
        """
        Send the list of what a server should have.

        Also what was only just sent there: the worst that comes of a START which is not there yet
        is another try. Left out, a training that has begun meanwhile would be ended.
        And all that may be there of a task whose record makes no sense.
        """
        now_at_work = {
            entry.key: entry
            for entry in self._records.list_tasks_at_work()
            if entry.may_be_on(server)
        }
        expected = {}
        for key, entry in {**known, **now_at_work}.items():
            with self._troubles.guard("list for its server", key) as guard:
                task = entry.read()
                is_sent = task.newest.phase is None and key in now_at_work
                if task.has_attempt and (is_expected(task, server) or is_sent):
                    expected[identify(task.ref)] = task.ref
            if guard.is_failed:
                shown = [held.ref for held in running if held.key == key]
                expected |= {identify(ref): ref for ref in (*shown, *entry.list_refs())}
        self._agent.send(server, Sync(expected=tuple(expected.values())))


def _suspect(server: str, ref: AttemptRef) -> _Suspect:
    return (server, *identify(ref))
