"""One list of all pods for everybody in a process who waits for one of them."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Protocol
from weakref import WeakKeyDictionary

from touchstone.core.pods import Pod
from touchstone.hooks.runpod.api import Account
from touchstone.hooks.runpod.requests import PodList
from touchstone.hooks.runpod.rest import RestPodApi

REQUESTS_PER_MINUTE = 30
"""Half of the documented example quota, which is the account's and counts all its requests."""


class Lists(Protocol):
    """What can read all pods."""

    def read_pods(self) -> PodList:
        """Return all pods and the number of requests that took."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """
    All pods of an account at one time, complete.

    :param begun_at: Monotonic time before the first page was asked for: what was created before
        that should be in it, unless the service's lists lag behind.
    :param checked_at: The same by the calendar.
    """

    pods: tuple[Pod, ...]
    begun_at: float
    checked_at: datetime

    @cached_property
    def _by_id(self) -> dict[str, Pod]:
        return {pod.id: pod for pod in self.pods}

    def find(self, pod_id: str) -> Pod | None:
        """Return a pod."""
        return self._by_id.get(pod_id)

    def list_named(self, name: str) -> list[Pod]:
        """Return the pods of exactly this name, oldest first; names are not unique at RunPod."""
        named = [pod for pod in self.pods if pod.name == name]
        return sorted(named, key=lambda pod: pod.created_at or datetime.max.replace(tzinfo=UTC))


class PodLister:
    """
    Reads the list of all pods, at most so often, for all who ask; safe in threads.

    Pages count: with many pods a list takes many requests, and comes less often.

    :param api: Reads the list.
    :param requests_per_minute: Most requests for listing, of all callers together.
    :param clock: Monotonic seconds.
    :param sleep: Makes pauses.
    """

    def __init__(
        self,
        api: Lists,
        *,
        requests_per_minute: int = REQUESTS_PER_MINUTE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._api = api
        self._seconds_per_request = 60 / requests_per_minute
        self._clock = clock
        self._sleep = sleep
        self._changed = threading.Condition()
        self._is_reading = False
        self._snapshot: Snapshot | None = None
        self._error: tuple[float, Exception] | None = None
        self._next_at = 0.0
        self._pages = 1

    def find(self, *, since: float) -> Snapshot | None:
        """Return the newest list when it was begun at a monotonic time or later."""
        snapshot = self._snapshot
        return snapshot if snapshot is not None and snapshot.begun_at >= since else None

    def compute_since(self) -> float:
        """Return when a list must have been begun to be as new as this lister's pace allows."""
        return self._clock() - self._seconds_per_request * self._pages

    def get(self, *, since: float | None = None) -> Snapshot:
        """
        Return a list that was begun at a monotonic time or later; waits for its turn.

        :param since: ``None`` for whatever is not older than this lister's own pace.
        :raises TransientError: If the list that was read for this caller and others failed.
        """
        asked_at = self._clock()
        since = self.compute_since() if since is None else since
        with self._changed:
            while True:
                if found := self.find(since=since):
                    return found
                if self._error is not None and self._error[0] > asked_at:
                    # Somebody else's try has failed while this caller waited: it was also ours.
                    raise self._error[1]
                if not self._is_reading:
                    break
                self._changed.wait()
            self._is_reading = True
        try:
            wait = self._next_at - self._clock()
            if wait > 0:
                self._sleep(wait)
            return self._read()
        finally:
            with self._changed:
                self._is_reading = False
                self._changed.notify_all()

    def _read(self) -> Snapshot:
        # One caller at a time, by the mark above; nobody holds a lock meanwhile.
        begun_at, checked_at = self._clock(), datetime.now(UTC)
        # A failed list may have used up as many requests as the last one had pages.
        self._next_at = begun_at + self._seconds_per_request * self._pages
        try:
            found = self._api.read_pods()
        except Exception as error:
            self._error = (self._clock(), error)
            raise
        self._pages = found.requests
        self._next_at = begun_at + self._seconds_per_request * self._pages
        self._snapshot = Snapshot(pods=tuple(found.pods), begun_at=begun_at, checked_at=checked_at)
        return self._snapshot


class AsyncPodLister:
    """
    The process's lister, for coroutines: thousands may wait, one thread at most is used.

    :param lister: The process's lister.
    """

    def __init__(self, lister: PodLister) -> None:
        self._lister = lister
        self._lock = asyncio.Lock()
        self._error: tuple[float, Exception] | None = None

    async def get(self, *, since: float | None = None) -> Snapshot:
        """Return a list as ``PodLister.get`` does."""
        asked_at = time.monotonic()
        since = self._lister.compute_since() if since is None else since
        async with self._lock:
            if found := self._lister.find(since=since):
                return found
            if self._error is not None and self._error[0] > asked_at:
                raise self._error[1]
            try:
                return await asyncio.to_thread(self._lister.get, since=since)
            except Exception as error:
                self._error = (time.monotonic(), error)
                raise


_LISTERS: dict[str, PodLister] = {}
_ASYNC_LISTERS: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, AsyncPodLister]] = (
    WeakKeyDictionary()
)
_GUARD = threading.Lock()


def get_lister(account: Account) -> PodLister:
    """Return this process's one lister of an account."""
    key = _build_key(account)
    with _GUARD:
        if key not in _LISTERS:
            _LISTERS[key] = PodLister(RestPodApi(account))
        return _LISTERS[key]


def get_async_lister(account: Account) -> AsyncPodLister:
    """Return this process's one lister of an account, for the running event loop."""
    lister = get_lister(account)
    with _GUARD:
        of_loop = _ASYNC_LISTERS.setdefault(asyncio.get_running_loop(), {})
        return of_loop.setdefault(_build_key(account), AsyncPodLister(lister))


def _build_key(account: Account) -> str:
    return hashlib.sha256(f"{account.url}\n{account.api_key}".encode()).hexdigest()
