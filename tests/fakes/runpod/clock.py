"""The emulator's clock: real time that a test may push forward."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import UTC, datetime


class Clock:
    """
    Seconds since 1970, as the emulated service sees them.

    :param offset: Seconds it is ahead of the machine's clock.
    """

    def __init__(self, offset: float = 0) -> None:
        self.offset = offset
        self._sleepers: set[asyncio.Event] = set()

    def now(self) -> float:
        """Return the time."""
        return time.time() + self.offset

    def push(self, seconds: float) -> None:
        """Let time pass; what sleeps by this clock wakes up when it is due."""
        self.offset += seconds
        for sleeper in self._sleepers:
            sleeper.set()

    async def sleep(self, seconds: float) -> None:
        """Sleep by this clock."""
        await self.sleep_until(self.now() + seconds)

    async def sleep_until(self, at: float) -> None:
        """Sleep by this clock up to a time of it."""
        pushed = asyncio.Event()
        self._sleepers.add(pushed)
        try:
            while (left := at - self.now()) > 0:
                pushed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(pushed.wait(), left)
        finally:
            self._sleepers.discard(pushed)


def format_time(seconds: float | None) -> str | None:
    """Return RFC 3339 in UTC with milliseconds."""
    if seconds is None:
        return None
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def parse_time(text: str) -> float:
    """Return seconds since 1970 of RFC 3339."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
