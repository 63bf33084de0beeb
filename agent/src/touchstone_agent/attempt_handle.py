"""The one place where the state of an attempt changes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from touchstone_agent.adapters.journal import Journal
from touchstone_agent.core.attempts import Attempt
from touchstone_agent.core.ports import Clock
from touchstone_agent.logs import Log
from touchstone_agent.outbox import Outbox
from touchstone_agent.protocol.messages import AttemptPhase, AttemptRef

log = Log("attempt")


class AttemptHandle:
    """
    Holds an attempt while threads work on it: every change is journalled before it is seen.

    :param attempt: The attempt, as journalled.
    :param name: Name of its container.
    :param folder: Its folder.
    :param journal: The journal.
    :param outbox: Takes its phases.
    :param clock: The clock.
    """

    def __init__(
        self,
        attempt: Attempt,
        *,
        name: str,
        folder: Path,
        journal: Journal,
        outbox: Outbox,
        clock: Clock,
    ) -> None:
        self._attempt = attempt
        self.name = name
        self.folder = folder
        self._journal = journal
        self._outbox = outbox
        self._clock = clock
        self._lock = threading.RLock()
        self.woken = threading.Event()
        """Set when its supervisor should look again."""
        self.dropped = threading.Event()
        """Set when it is dropped: no file and no message is sent any more."""
        self.acknowledged = threading.Event()
        """Set when its end is on record: it is dropped as soon as its supervisor is done."""
        self.is_supervised = False

    @property
    def attempt(self) -> Attempt:
        """Return the attempt as it is now."""
        return self._attempt

    @property
    def ref(self) -> AttemptRef:
        """Return its identity."""
        return self._attempt.ref

    def update(self, change: Callable[[Attempt], Attempt]) -> Attempt:
        """
        Change it; a change of phase goes to the control plane.

        :param change: Returns the changed attempt; may be called with a newer one than the caller
            has seen.
        """
        with self._lock:
            before = self._attempt
            after = change(before)
            if self.dropped.is_set() or after == before:
                return before
            moved = after.phase is not before.phase
            posted = self._journal.save(after, now=self._clock.now(), announce=moved)
            self._attempt = after
            if posted is not None:
                self._outbox.post(posted)
                log.info("attempt.phase", attempt=self.name, phase=after.phase, reason=after.reason)
        return after

    def announce(self) -> None:
        """Tell its phase once more."""
        with self._lock:
            if self.dropped.is_set():
                return
            posted = self._journal.save(self._attempt, now=self._clock.now(), announce=True)
        if posted is not None:
            self._outbox.post(posted)

    def end(self, reason: str, *, as_phase: AttemptPhase = AttemptPhase.CANCELLED) -> bool:
        """
        Ask for its end; its supervisor does the rest.

        :param reason: One line.
        :param as_phase: What it ends as.
        :return: ``False`` if it holds no slot any more: there is nothing to end.
        """
        with self._lock:
            if not self._attempt.holds_slot:
                return False
            if self._attempt.cancel_reason is None:
                self.update(lambda a: replace(a, cancel_reason=reason, end_as=as_phase))
                log.info("attempt.end_asked", attempt=self.name, reason=reason)
        self.woken.set()
        return True

    def drop(self) -> None:
        """Forget it; only its fence is remembered."""
        with self._lock:
            self.dropped.set()
            self._journal.forget(self.ref)
        self.woken.set()
