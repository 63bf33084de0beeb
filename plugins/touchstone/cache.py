"""
Answers that may be a moment old: for many who ask, one request.

A caller that comes while a request is under way waits for it, and shares its failure too. No lock
is held meanwhile. A failure is remembered for a short moment, so that a service that is down is
not asked again by each of those who have just been told.

Ours and not ``cachetools``: that has no request in flight for all who wait, no coroutines, and
remembers no failure.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

FAILURE_SECONDS = 1.0
JITTER = 0.1
"""The share of an answer's life that chance takes off, so that processes do not ask together."""


@dataclass(frozen=True)
class _Kept(Generic[T]):
    """What the last request came to, and until when that is said again."""

    until: float
    answer: tuple[T] | None = None
    error: Exception | None = None


def _find_kept(kept: _Kept[T] | None, now: float) -> tuple[T] | None:
    """Return an answer that is new enough; ``None`` to ask. Raise a failure that is as new."""
    if kept is None or now >= kept.until:
        return None
    if kept.error is not None:
        raise kept.error
    return kept.answer


class Cached(Generic[T]):
    """
    Asks for something at most once in a while, for all callers; for threads.

    :param ask: Asks for it anew.
    :param seconds: How old an answer may be.
    :param failure_seconds: How long a failure is repeated.
    :param monotonic: Seconds of a clock that never goes back.
    :param roll: Returns a number from 0 to 1.
    """

    def __init__(
        self,
        ask: Callable[[], T],
        *,
        seconds: float,
        failure_seconds: float = FAILURE_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
        roll: Callable[[], float] = random.random,
    ) -> None:
        self._ask = ask
        self._seconds = seconds
        self._failure_seconds = failure_seconds
        self._monotonic = monotonic
        self._roll = roll
        self._lock = threading.Lock()
        self._kept: _Kept[T] | None = None
        self._flight: Future[T] | None = None

    def __call__(self) -> T:
        """Return the answer."""
        with self._lock:
            kept = _find_kept(self._kept, self._monotonic())
            if kept is not None:
                return kept[0]
            flight = self._flight
            if flight is None:
                mine = self._flight = Future()
        if flight is not None:
            return flight.result()
        begun = self._monotonic()
        try:
            answer = self._ask()
        except BaseException as error:
            self._land(mine, self._build_failure(error))
            mine.set_exception(error)
            raise
        life = self._seconds * (1 - JITTER * self._roll())
        self._land(mine, _Kept(begun + life, answer=(answer,)))
        mine.set_result(answer)
        return answer

    def forget(self) -> None:
        """Ask anew the next time, however young the answer is: it is known to be wrong."""
        # Nor is the answer to a request under way kept, nor waited for by anybody new.
        with self._lock:
            self._kept = self._flight = None

    def _land(self, flight: Future[T], kept: _Kept[T] | None) -> None:
        with self._lock:
            if self._flight is flight:
                self._kept, self._flight = kept, None

    def _build_failure(self, error: BaseException) -> _Kept[T] | None:
        # An interrupt is one caller's, and no word about the service.
        until = self._monotonic() + self._failure_seconds
        return _Kept(until, error=error) if isinstance(error, Exception) else None


class KeptBytes:
    """
    Bytes by key; of more than may be kept, those that nobody has wanted longest go. For threads.

    :param limit: Most bytes of all of them together.
    :param seconds: How old they may be; ``None`` for those that never change.
    :param monotonic: Seconds of a clock that never goes back.
    """

    def __init__(
        self,
        limit: int,
        *,
        seconds: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._seconds = seconds
        self._monotonic = monotonic
        self._size = 0
        self._found: OrderedDict[Hashable, tuple[float, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: Hashable) -> bytes | None:
        """Return what is kept; ``None`` for nothing, and for what is too old."""
        with self._lock:
            found = self._found.get(key)
            if found is None:
                return None
            at, body = found
            if self._seconds is not None and self._monotonic() - at >= self._seconds:
                return None
            self._found.move_to_end(key)
            return body

    def keep(self, key: Hashable, body: bytes) -> None:
        """Keep bytes, in the place of what was kept under their key."""
        with self._lock:
            _, before = self._found.pop(key, (0.0, b""))
            self._size += len(body) - len(before)
            self._found[key] = (self._monotonic(), body)
            while self._size > self._limit:
                _, (_, dropped) = self._found.popitem(last=False)
                self._size -= len(dropped)


class AsyncCached(Generic[T]):
    """
    Asks as :class:`Cached` does, for the coroutines of one event loop.

    A caller that is cancelled ends its own waiting only: the request goes on for the others.

    :param ask: Asks for it anew.
    :param seconds: How old an answer may be.
    :param failure_seconds: How long a failure is repeated.
    :param monotonic: Seconds of a clock that never goes back.
    :param roll: Returns a number from 0 to 1.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[T]],
        *,
        seconds: float,
        failure_seconds: float = FAILURE_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
        roll: Callable[[], float] = random.random,
    ) -> None:
        self._ask = ask
        self._seconds = seconds
        self._failure_seconds = failure_seconds
        self._monotonic = monotonic
        self._roll = roll
        self._kept: _Kept[T] | None = None
        self._flight: asyncio.Task[T] | None = None

    async def __call__(self) -> T:
        """Return the answer."""
        kept = _find_kept(self._kept, self._monotonic())
        if kept is not None:
            return kept[0]
        if self._flight is None:
            self._flight = asyncio.create_task(self._fly())
            # Everybody who wanted it may be gone: then nobody hears of its failure.
            self._flight.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._flight)

    async def _fly(self) -> T:
        begun = self._monotonic()
        try:
            answer = await self._ask()
        except Exception as error:
            self._kept = _Kept(self._monotonic() + self._failure_seconds, error=error)
            raise
        else:
            life = self._seconds * (1 - JITTER * self._roll())
            self._kept = _Kept(begun + life, answer=(answer,))
            return answer
        finally:
            self._flight = None
