"""
How long to wait before the next try; the one backoff of both sides.

Ours and not ``tenacity``: it only counts, so that threads, coroutines and loops that an event ends
use it alike, and the program inside a pod brings nothing for it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

MOST_ASKED_SECONDS = 300.0
"""A peer that asks for more patience than this is not obeyed: it may have said anything."""


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """
    Doubling waits with a cap, each a little shorter by chance.

    The cap matters more than the growth: a daemon that waits for hours is as good as dead. The
    chance keeps those apart whom one fault has stopped at the same moment.

    :param first_seconds: The first wait.
    :param cap_seconds: The longest wait.
    :param jitter: The share of a wait, 0 to 1, that chance takes off at most.
    :param roll: Returns a number from 0 to 1.
    """

    first_seconds: float
    cap_seconds: float
    jitter: float = 0.25
    roll: Callable[[], float] = field(default=random.random, compare=False, repr=False)

    def after(self, failures: int, *, asked: float | None = None) -> float:
        """
        Return the seconds to wait.

        :param failures: Failures in a row, from 1.
        :param asked: What the other side asked to wait at least; taken up to
            :data:`MOST_ASKED_SECONDS`.
        """
        # Beyond 2**30 any cap is reached; the bound keeps the power small.
        exponent = min(max(failures, 1) - 1, 30)
        longest = min(self.cap_seconds, self.first_seconds * float(2**exponent))
        wait = longest * (1 - self.jitter * self.roll())
        # Not by max(): no number at all compares with nothing.
        return min(asked, MOST_ASKED_SECONDS) if asked is not None and asked > wait else wait
