"""
Waiting for what will come true, however slow the machine is.

Nothing here knows a time limit: a busy machine is no failure. A wait ends when what it waits for is
there, or when that can no longer come true: then it says what it saw last. What neither comes nor
becomes impossible is ended by the suite's watchdog (``timeout`` in ``pyproject.toml``).
"""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Found = TypeVar("Found")
Why = Callable[[], object]


class InVain(AssertionError):
    """What is waited for can no longer come true."""


PAUSE_SECONDS = 0.05


def wait_for(
    what: str, ask: Callable[[], Found], *, unless: Why | None = None, every: float = PAUSE_SECONDS
) -> Found:
    """
    Ask until the answer is truthy, and return it.

    :param what: What is waited for, for whoever reads of a failure.
    :param ask: Looks for it.
    :param unless: Returns why it can no longer come true, or something falsy.
    :param every: Seconds between two looks.
    :raises InVain: If it can no longer come true.
    """
    look = _Look(what)
    with look.telling():
        while True:
            # Looked up first: what came true before the end has come true.
            end = look.find_end(unless)
            if look.take(ask()):
                return look.answer  # type: ignore[no-any-return]
            look.refuse(end)
            time.sleep(every)


async def wait_async(
    what: str,
    ask: Callable[[], Found | Awaitable[Found]],
    *,
    unless: Why | None = None,
    every: float = PAUSE_SECONDS,
) -> Found:
    """Do as :func:`wait_for`, and let the event loop work meanwhile; ``ask`` may be awaitable."""
    look = _Look(what)
    with look.telling():
        while True:
            end = look.find_end(unless)
            answer = ask()
            if look.take(await answer if inspect.isawaitable(answer) else answer):
                return look.answer  # type: ignore[no-any-return]
            look.refuse(end)
            await asyncio.sleep(every)


def find_exit(process: subprocess.Popen[Any]) -> str | None:
    """Say that a process has ended, as a reason for :func:`wait_for`; ``None`` while it lives."""
    code = process.poll()
    return None if code is None else f"its process {process.pid} has ended with {code}"


class _Look:
    """What was seen last of what is waited for."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.answer: Any = "none yet"

    def take(self, answer: Any) -> bool:
        self.answer = answer
        return bool(answer)

    @staticmethod
    def find_end(unless: Why | None) -> str | None:
        # As a text: what it was told with may change until it is needed.
        end = unless() if unless is not None else None
        return str(end) if end else None

    def refuse(self, end: str | None) -> None:
        if end:
            raise InVain(f"{self._what}: {end} (last answer {self.answer!r})")

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Tell of the wait when something else ends it: the watchdog, or the look itself."""
        try:
            yield
        except InVain:
            raise
        except asyncio.CancelledError:
            # The watchdog ended the loop and not this coroutine: only the output gets there.
            print(f"waited for: {self._what} (last answer {self.answer!r})")
            raise
        except BaseException as error:
            error.add_note(f"waited for: {self._what} (last answer {self.answer!r})")
            raise
