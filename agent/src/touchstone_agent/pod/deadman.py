"""The dead-man's switch: whatever becomes of the control plane, the pod ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NoReturn

from touchstone_agent.logs import Log

AGAIN_SECONDS = 1.0

log = Log("deadman")


class DeadMan:
    """
    Ends the pod as soon as there is a reason to, for good.

    A thread does the work, because the first process must go on reaping children. It is there from
    the beginning: a trainer that uses up all processes must not keep it from being started.

    :param find_reason: Returns why the pod has to end; ``None`` while it may go on.
    :param steps: What is done then, in turn; the last one does not return.
    :param begin: Runs a function beside this one, and returns whether it still runs.
    """

    def __init__(
        self,
        find_reason: Callable[[], str | None],
        steps: Callable[[str], None],
        begin: Callable[[Callable[[], None]], Callable[[], bool]] | None = None,
    ) -> None:
        self._find_reason = find_reason
        self._steps = steps
        self._begin = begin or _begin_thread
        self._is_there: Callable[[], bool] = lambda: False
        self._reason: str | None = None
        self._is_due = threading.Event()

    def look(self) -> None:
        """Check whether the pod has to end, and start the process that ends it."""
        if self._reason is None:
            self._reason = self._find_reason()
            if self._reason is not None:
                log.warning("pod.over", reason=self._reason)
                self._is_due.set()
        if not self._is_there():
            self._is_there = self._begin(self._work)

    def _work(self) -> NoReturn:
        self._is_due.wait()
        while True:
            try:
                self._steps(self._reason or "")
            except Exception:
                log.exception("pod.end_failed")
            time.sleep(AGAIN_SECONDS)


def _begin_thread(work: Callable[[], None]) -> Callable[[], bool]:
    thread = threading.Thread(target=work, name="pod ending", daemon=True)
    thread.start()
    return thread.is_alive
