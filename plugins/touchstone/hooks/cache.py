"""Answers that may be a moment old."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Cached(Generic[T]):
    """
    Asks for something at most once in a while.

    :param ask: Asks for it anew.
    :param seconds: How old an answer may be.
    """

    def __init__(
        self,
        ask: Callable[[], T],
        *,
        seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._seconds = seconds
        self._monotonic = monotonic
        self._answer: tuple[float, T] | None = None

    def __call__(self) -> T:
        """Return the answer."""
        now = self._monotonic()
        if self._answer is None or now - self._answer[0] >= self._seconds:
            self._answer = now, self._ask()
        return self._answer[1]
