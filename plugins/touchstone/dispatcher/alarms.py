"""What an admin has to know of: dead letters, and servers that refuse for what they lack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

from touchstone.core.holds import LACKS, list_holds, mark_told
from touchstone.core.records.notes import Letters
from touchstone.core.records.servers import Server, ServerEntry, ServerHold
from touchstone.hooks.letters import DeadLetters
from touchstone.hooks.mail import mail_admins
from touchstone.services.troubles import Troubles
from touchstone.settings import Settings
from touchstone_agent.protocol.names import (
    build_control_queue,
    build_event_queue,
    build_request_queue,
)

AGAIN_AFTER = timedelta(hours=6)
"""Before the same alarm is repeated for a server that took something in between."""

QUEUES_AT_A_TIME = 40
"""So many queues of servers are looked at in one go; the others' turn comes in the next ones."""


class Records(Protocol):
    """What this needs of the records."""

    def list_servers(self) -> list[ServerEntry]:
        """Return all servers by name."""

    def change_server(self, server: str, decide: Callable[[Server], Server | None]) -> Server:
        """Change a server's record."""

    def find_note(self, kind: type[Letters]) -> Letters:
        """Return the note; its defaults if there is none."""

    def put_note(self, note: Letters) -> None:
        """Write the note."""


class Alarms:
    """
    Looks from time to time, writes down what it finds, and writes to the admins once.

    :param records: The servers, and where is noted what was told.
    :param letters: The queues of dead letters.
    :param settings: Names of the installation.
    :param clock: The time, UTC.
    :param troubles: Where is counted what could not be looked at or told.
    :param warn: Writes to the admins: a subject and a text.
    """

    def __init__(
        self,
        *,
        records: Records,
        letters: DeadLetters,
        settings: Settings,
        clock: Callable[[], datetime],
        troubles: Troubles | None = None,
        warn: Callable[[str, str], None] | None = None,
    ) -> None:
        self._records = records
        self._letters = letters
        self._settings = settings
        self._clock = clock
        self._troubles = troubles or Troubles(clock)
        self._warn = warn or partial(mail_admins, settings)
        self._turn = 0
        self._told_at: dict[tuple[str, str], datetime] = {}

    def look(self) -> None:
        """Look once; an alarm that cannot be sent now is sent the next time."""
        entries = [
            entry
            for entry in self._records.list_servers()
            if entry.env in {None, self._settings.env}
        ]
        with self._troubles.guard("look for", "dead letters"):
            self._look_for_letters([entry.name for entry in entries])
        for entry in entries:
            with self._troubles.guard("tell the admins of", entry.name):
                self._tell_holds(entry.read())

    # --- dead letters ------------------------------------------------------------------------

    def _look_for_letters(self, servers: list[str]) -> None:
        events = build_event_queue(self._settings.env)
        queues = [build(name) for name in servers for build in _QUEUES]
        seen = self._count([events, *self._choose(queues)])
        before = self._records.find_note(Letters)
        # A server that is gone takes its queues with it.
        of_ours = {events, *queues}
        depths = {name: n for name, n in {**before.queues, **seen}.items() if name in of_ours and n}
        # Emptied queues are told of anew when something comes again.
        told = {name: min(n, depths[name]) for name, n in before.told.items() if name in depths}
        risen = {name: n for name, n in depths.items() if n > told.get(name, 0)}
        if risen:
            with self._troubles.guard("tell the admins of", "dead letters"):
                self._warn(*_write_letters(risen))
                told |= risen
        if (before.queues, before.told) != (depths, told):
            self._records.put_note(Letters(queues=depths, told=told, changed_at=self._clock()))

    def _choose(self, queues: list[str]) -> list[str]:
        """Return the queues whose turn it is."""
        if len(queues) <= QUEUES_AT_A_TIME:
            return queues
        start = self._turn % len(queues)
        self._turn = start + QUEUES_AT_A_TIME
        return (queues + queues)[start : start + QUEUES_AT_A_TIME]

    def _count(self, queues: list[str]) -> dict[str, int]:
        found = {}
        for queue in queues:
            with self._troubles.guard("count the dead letters of", queue):
                found[queue] = self._letters.count(queue)
        return found

    # --- servers that refuse -----------------------------------------------------------------

    def _tell_holds(self, server: Server) -> None:
        new = [hold for hold in list_holds(server) if hold.refusal in LACKS and not hold.is_told]
        if not new:
            return
        name, now = server.server, self._clock()
        fresh = [hold for hold in new if not self._is_recent((name, hold.key), now)]
        if fresh:
            self._warn(*_write_holds(name, fresh))
            self._told_at |= {(name, hold.key): now for hold in fresh}
        self._records.change_server(name, lambda found: mark_told(found, {h.key for h in new}))

    def _is_recent(self, hold: tuple[str, str], now: datetime) -> bool:
        """Tell whether the same was told a while ago: a disk that is just full comes and goes."""
        told = self._told_at.get(hold)
        return told is not None and now - told < AGAIN_AFTER


_QUEUES = (build_request_queue, build_control_queue)


def _write_letters(risen: Mapping[str, int]) -> tuple[str, str]:
    total = sum(risen.values())
    what = "1 dead letter" if total == 1 else f"{total} dead letters"
    listed = ", ".join(f"{queue} ({number})" for queue, number in sorted(risen.items()))
    return what, (
        f"Messages that could not be dealt with were set aside, of: {listed}. The ends of attempts "
        "are on record all the same. The runbook tells what to do, under Dead letters."
    )


def _write_holds(server: str, holds: list[ServerHold]) -> tuple[str, str]:
    listed = "; ".join(
        f"{hold.reason} (not asked again before {hold.until:%H:%M} UTC)" for hold in holds
    )
    return f"server {server} refuses: {holds[0].reason}", (
        f"Server {server} refuses what is sent to it: {listed}. Tasks go to other servers, if any "
        "fits, and this one is tried again by itself. When it is mended, start its agent anew, or "
        f"give it back at once with: touchstone fleet attach {server}"
    )
