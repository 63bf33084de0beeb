"""Looks for pods that no task waits for, whichever DAG is paused or deleted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from touchstone.core.records.notes import Proof, ReaperNote
from touchstone.services.pods.reaper import look
from touchstone.settings import Settings
from touchstone.stores.records import RecordStore

log = logging.getLogger(__name__)

LOOK_SECONDS = 300.0
"""After which a look that hangs is given up; the next one goes on."""


class ReaperLoop:
    """
    Lets one of all dispatchers look at a time.

    Who looks is written down before the look: if they die in the middle of it, another one looks
    when it is time again.

    :param records: Where looks are written down.
    :param settings: How often; without a connection to RunPod there is nothing to look at.
    :param clock: The time, UTC.
    :param look: Looks once.
    """

    def __init__(
        self,
        *,
        records: RecordStore,
        settings: Settings,
        clock: Callable[[], datetime],
        look: Callable[[Settings], Awaitable[Proof]] = look,
    ) -> None:
        self._records = records
        self._settings = settings
        self._clock = clock
        self._look = look

    def run(self) -> Proof | None:
        """
        Look, if it is time and nobody else does.

        :return: What the look has shown; ``None`` if there was none.
        :raises TouchstoneError: If the pods cannot be listed, or the records not be read.
        :raises TimeoutError: If the look took too long.
        """
        if self._settings.runpod.conn_id is None or not self._claim():
            return None
        proof = asyncio.run(self._look_in_time())
        if proof.terminated:
            log.info("the reaper has ended %s of %s pods", len(proof.terminated), proof.ours)
        return proof

    async def _look_in_time(self) -> Proof:
        async with asyncio.timeout(LOOK_SECONDS):
            return await self._look(self._settings)

    def _claim(self) -> bool:
        """Write down that this one looks now; return whether nobody else has just done so."""
        now = self._clock()
        period = timedelta(seconds=self._settings.runpod.reap_seconds)
        is_mine = False

        def decide(note: ReaperNote) -> ReaperNote | None:
            nonlocal is_mine
            last = note.looked_at
            # A time to come is of a clock that was wrong, and must not stop all looking.
            is_mine = last is None or not now - period < last <= now
            return note.change(looked_at=now) if is_mine else None

        self._records.change_note(ReaperNote, decide)
        return is_mine
