"""Waits of benchmarks, which are run on a quiet machine: unlike a test they give up in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from waiting import wait_for

Found = TypeVar("Found")


def wait_within(
    seconds: float, what: str, ask: Callable[[], Found], *, every: float = 0.5
) -> Found:
    """
    Ask until the answer is truthy, and return it.

    :raises waiting.InVain: If it is not within so many seconds.
    """
    limit = time.monotonic() + seconds

    def is_too_late() -> str | None:
        return f"not within {seconds:.0f} s" if time.monotonic() > limit else None

    return wait_for(what, ask, unless=is_too_late, every=every)
