"""What the control plane expects of this agent, and what of that is not here, or too much."""

from __future__ import annotations

from typing import TypeVar

from touchstone_agent.adapters.journal import Journal
from touchstone_agent.attempt_table import AttemptTable
from touchstone_agent.context import AgentContext
from touchstone_agent.core.resync import plan_sync
from touchstone_agent.logs import Log
from touchstone_agent.protocol.envelope import Header
from touchstone_agent.protocol.messages import AttemptPhase, AttemptRef, PhaseChanged, Sync
from touchstone_agent.settings import AgentSettings

K = TypeVar("K")

MAX_HELLOS = 1000
"""HELLOs whose answer is still taken; an agent that nobody answers says no more of them."""

log = Log("agent")


class Expectations:
    """
    Compares what the control plane expects with what is here, whenever it says so.

    Neither side is believed at once: what is not expected, and what is missing, is given time, for
    a message about it may be on its way.

    :param settings: The settings.
    :param journal: The journal.
    :param context: What supervisors work with.
    :param attempts: The attempts that are here.
    """

    def __init__(
        self,
        settings: AgentSettings,
        *,
        journal: Journal,
        context: AgentContext,
        attempts: AttemptTable,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._context = context
        self._attempts = attempts
        self.hellos: set[str] = set()
        """Messages of HELLOs, of which one is answered."""
        self._is_synced = False
        self._quarantine: dict[AttemptRef, float] = {}
        self._missing: dict[AttemptRef, float] = {}

    @property
    def wants_hello(self) -> bool:
        """Tell whether another HELLO is to be said: nobody has answered one yet."""
        return not self._is_synced and len(self.hellos) < MAX_HELLOS

    def note_command(self, ref: AttemptRef) -> None:
        """Hear of an attempt by its START or CANCEL: it is not missing any more."""
        with self._attempts.lock:
            self._missing.pop(ref, None)

    def note_grants(self, ref: AttemptRef) -> None:
        """Note an attempt by its grants: the control plane, which gives them, knows of it."""
        with self._attempts.lock:
            self._quarantine.pop(ref, None)

    def take(self, sync: Sync, header: Header) -> bool:
        """Take in what is expected; ``False`` for the answer to a HELLO of an earlier agent."""
        if header.correlation_id is not None and header.correlation_id not in self.hellos:
            return False
        self._is_synced = True
        monotonic = self._context.clock.monotonic()
        with self._attempts.lock:
            plan = plan_sync(
                sync.expected,
                [handle.attempt for handle in self._attempts.handles.values()],
                asked_at=header.issued_at,
            )
            for ref in plan.expected:
                self._quarantine.pop(ref, None)
                self._attempts.handles[ref].announce()
            for ref in plan.unexpected:
                if ref not in self._quarantine:
                    log.warning("attempt.quarantined", attempt=self._attempts.handles[ref].name)
                    ends = monotonic + self._settings.quarantine_seconds
                    self._quarantine[ref] = ends
            for ref in plan.missing:
                self._missing.setdefault(ref, monotonic + self._settings.sync_grace_seconds)
        return True

    def end_overdue(self) -> None:
        """End what nobody expects, and report what is missing, when its time is over."""
        now = self._context.clock.monotonic()
        with self._attempts.lock:
            unexpected = [
                self._attempts.handles.get(ref) for ref in _take_due(self._quarantine, now)
            ]
            missing = _take_due(self._missing, now)
        for handle in filter(None, unexpected):
            handle.end("the control plane does not expect it", as_phase=AttemptPhase.LOST)
        for ref in missing:
            self._report_missing(ref)

    def _report_missing(self, ref: AttemptRef) -> None:
        at = self._context.clock.now()
        with self._attempts.lock:
            if ref in self._attempts.handles:
                return
            event = PhaseChanged(
                ref=ref, phase=AttemptPhase.LOST, at=at, reason="unknown to this server"
            )
            # Marked, so that its START, should it still come, does not run it after all.
            posted = self._journal.mark(ref, now=at, cancelled=False, event=event)
        if posted is not None:
            self._context.outbox.post(posted)
        log.warning("attempt.missing", task=ref.task_key, fence=ref.fence)


def _take_due(deadlines: dict[K, float], now: float) -> list[K]:
    due = [key for key, ends in deadlines.items() if now >= ends]
    for key in due:
        del deadlines[key]
    return due
