"""One poll of the task records for all triggers of a process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from functools import lru_cache

from touchstone.core.records.tasks import Task, TaskEntry, TaskKey
from touchstone.settings import get_settings
from touchstone.stores.records import RecordStore
from touchstone_agent.protocol.errors import TouchstoneError

log = logging.getLogger(__name__)

Entries = Mapping[TaskKey, TaskEntry[Task]]
Fetch = Callable[[Iterable[TaskKey], Entries], Entries]

POLL_SECONDS = 1.0
"""For all waiting tasks together: one batch of reads, however many there are."""
_BACK_OFF_SECONDS = 5.0


class TaskWatcher:
    """
    Tells many waiters of changed task records, with one batch of reads per poll.

    A store that cannot be reached ends no task: the watcher waits and asks again.

    :param fetch: Reads records by key, given those of the last time; called in a thread.
    :param poll_seconds: Seconds between two polls while anybody waits.
    """

    def __init__(self, fetch: Fetch, *, poll_seconds: float = POLL_SECONDS) -> None:
        self._fetch = fetch
        self._poll_seconds = poll_seconds
        self._known: Entries = {}
        self._waiters: dict[TaskKey, set[asyncio.Queue[TaskEntry[Task]]]] = {}
        self._poller: asyncio.Task[None] | None = None

    async def changes(self, key: TaskKey) -> AsyncIterator[Task]:
        """
        Yield the task now, and then after each change.

        While its record cannot be read it yields nothing, and the waiting goes on.
        """
        queue: asyncio.Queue[TaskEntry[Task]] = asyncio.Queue()
        self._waiters.setdefault(key, set()).add(queue)
        if self._poller is None or self._poller.done():
            self._start_poller()
        seen: object = None
        try:
            while True:
                entry = await queue.get()
                version = entry.stored.get("version")
                if version == seen:
                    continue
                seen = version
                if entry.task is None:
                    log.error("%s; it is waited for until somebody mends that", entry.problem)
                else:
                    yield entry.task
        finally:
            waiters = self._waiters[key]
            waiters.discard(queue)
            if not waiters:
                del self._waiters[key]

    def _start_poller(self) -> None:
        self._poller = asyncio.create_task(self._poll())
        self._poller.add_done_callback(self._on_end)

    def _on_end(self, poller: asyncio.Task[None]) -> None:
        """Begin again if the poll has ended under those who wait, who would wait for ever."""
        # Who is cancelled with it, as all are when a loop ends, has left by now.
        if poller is not self._poller or not self._waiters:
            return
        why = "it was cancelled" if poller.cancelled() else repr(poller.exception())
        log.error("the poll of the task records has ended: %s; it begins again", why)
        self._start_poller()

    async def _poll(self) -> None:
        while self._waiters:
            pause = self._poll_seconds
            try:
                wanted = tuple(self._waiters)
                entries = await asyncio.to_thread(self._fetch, wanted, self._known)
                for key, entry in entries.items():
                    for queue in self._waiters.get(key, ()):
                        queue.put_nowait(entry)
                self._known = entries
            except TouchstoneError as error:
                log.warning("task records cannot be read, trying again: %s", error)
                pause = _BACK_OFF_SECONDS
            except Exception:
                log.exception("reading task records failed, trying again")
                pause = _BACK_OFF_SECONDS
            await asyncio.sleep(pause)


@lru_cache(maxsize=1)
def get_records() -> RecordStore:
    """Return this process's one connection to the records; its client may be shared by threads."""
    return RecordStore.connect(get_settings())


_watchers: dict[asyncio.AbstractEventLoop, TaskWatcher] = {}


async def get_watcher() -> TaskWatcher:
    """Return the watcher of the running event loop, connected on first use."""
    loop = asyncio.get_running_loop()
    if loop not in _watchers:
        records = await asyncio.to_thread(get_records)
        # Another trigger may have connected meanwhile; one watcher is the point.
        _watchers.setdefault(loop, TaskWatcher(records.find_tasks))
    return _watchers[loop]
