"""Waits for the end of a container while its supervisor looks after it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from touchstone_agent.core.backoff import Backoff
from touchstone_agent.core.ports import Exit, Runtime
from touchstone_agent.logs import Log
from touchstone_agent.protocol.errors import PermanentError, TransientError

log = Log("exit")


class ExitWaiter:
    """
    Sleeps in the engine, in a thread of its own; an engine that restarts is waited for.

    :param runtime: Where it runs.
    :param name: Its name.
    :param stopping: Set when the agent is about to leave.
    :param on_end: Called when it has ended.
    """

    def __init__(
        self,
        runtime: Runtime,
        name: str,
        *,
        stopping: threading.Event,
        on_end: Callable[[], object],
    ) -> None:
        self._runtime = runtime
        self._name = name
        self._stopping = stopping
        self._on_end = on_end
        self._ended = threading.Event()
        self.exit: Exit | None = None
        """How it ended; ``None`` if it was gone."""

    @property
    def has_ended(self) -> bool:
        """Return whether it has ended."""
        return self._ended.is_set()

    def start(self) -> ExitWaiter:
        """Begin to wait, in the background."""
        threading.Thread(target=self._wait, name=f"{self._name} exit", daemon=True).start()
        return self

    def _wait(self) -> None:
        backoff, failures = Backoff(first_seconds=1, cap_seconds=60), 0
        while not self._stopping.is_set():
            try:
                self.exit = self._runtime.wait(self._name)
            except (TransientError, PermanentError) as error:
                failures += 1
                log.warning("exit.not_seen", container=self._name, problem=str(error))
                self._stopping.wait(backoff.after(failures))
                continue
            self._ended.set()
            self._on_end()
            return
