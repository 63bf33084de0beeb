"""Asks servers to pull the images of what waits, before a slot is free for it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from touchstone.core.staging import find_fresh, list_next_images, note_staged
from touchstone.dispatcher.placing import View
from touchstone.hooks.agent import AgentHook
from touchstone.services.troubles import Troubles
from touchstone.stores.records import RecordStore
from touchstone_agent.protocol.messages import Stage


class ImageStaging:
    """
    Looks at the head of the queue from time to time.

    That a server was asked is on its record before it is asked: what it may have a login for
    follows from there, and a crash in between costs no more than the head start.

    :param records: The records.
    :param agent: Speaks to servers.
    :param view: Returns what placement saw last.
    :param clock: The time, UTC.
    :param troubles: Where is counted what could not be done.
    """

    def __init__(
        self,
        *,
        records: RecordStore,
        agent: AgentHook,
        view: Callable[[], View],
        clock: Callable[[], datetime],
        troubles: Troubles,
    ) -> None:
        self._records = records
        self._agent = agent
        self._view = view
        self._clock = clock
        self._troubles = troubles

    def run(self) -> None:
        """Ask each server that lives for what it needs next, unless it was asked lately."""
        view, now = self._view(), self._clock()
        if view.is_paused:
            return
        by_key = {waiting.key: waiting.needs for waiting in view.waiting}
        needs = [by_key[wait.key] for wait in view.plan.waits if wait.key in by_key]
        for resource in view.resources:
            images = list_next_images(needs, resource) if resource.is_alive else []
            if images:
                with self._troubles.guard("stage images on", resource.name):
                    self._stage(resource.name, images, now)

    def _stage(self, server: str, images: list[str], now: datetime) -> None:
        before = self._records.find_server(server)
        if before is not None and note_staged(before, images, now=now) is None:
            return
        after = self._records.change_server(
            server, lambda found: note_staged(found, images, now=now)
        )
        fresh = find_fresh(after, now=now)
        if fresh:
            self._agent.send(server, Stage(images=tuple(fresh)))
