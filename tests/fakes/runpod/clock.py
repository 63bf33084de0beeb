"""The emulator's clock: real time that a test may push forward."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class Clock:
    """
    Seconds since 1970, as the emulated service sees them.

    :param offset: Seconds it is ahead of the machine's clock.
    """

    def __init__(self, offset: float = 0) -> None:
        self.offset = offset

    def now(self) -> float:
        """Return the time."""
        return time.time() + self.offset


def format_time(seconds: float | None) -> str | None:
    """Return RFC 3339 in UTC with milliseconds."""
    if seconds is None:
        return None
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def parse_time(text: str) -> float:
    """Return seconds since 1970 of RFC 3339."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
