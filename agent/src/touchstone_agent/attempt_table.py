"""The attempts that this agent has: which there are, who works on them, when they are forgotten."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import timedelta
from functools import partial

from touchstone_agent.adapters.files import make_attempt_folder, remove_tree
from touchstone_agent.adapters.journal import Journal
from touchstone_agent.attempt_handle import AttemptHandle
from touchstone_agent.context import AgentContext
from touchstone_agent.core.attempts import Attempt
from touchstone_agent.logs import Log
from touchstone_agent.protocol.messages import AttemptRef
from touchstone_agent.protocol.names import build_prepare_name
from touchstone_agent.settings import AgentSettings
from touchstone_agent.supervisor import Supervisor

REPEAT_SECONDS = 600.0
"""Time before an end without an acknowledgement is sent again: the queue may have lost it."""

log = Log("agent")


class AttemptTable:
    """
    Holds the handle of each attempt, from its START until its end is acknowledged.

    :attr:`lock` is the outermost lock of the agent: its holder may write to the journal and take
    a handle's own lock, and the holder of one of those never waits for it.

    :param settings: The settings.
    :param journal: The journal.
    :param context: What supervisors work with.
    """

    def __init__(self, settings: AgentSettings, *, journal: Journal, context: AgentContext) -> None:
        self._settings = settings
        self._journal = journal
        self._context = context
        self.lock = threading.RLock()
        self.handles: dict[AttemptRef, AttemptHandle] = {}
        """By reference; read and changed under :attr:`lock`."""
        self._told_at: dict[AttemptRef, float] = {}

    def list(self) -> tuple[AttemptHandle, ...]:
        """Return all handles, as of now."""
        with self.lock:
            return tuple(self.handles.values())

    def find_name(self, ref: AttemptRef) -> str | None:
        """Return the name of an attempt's container; ``None`` if none can have that name."""
        try:
            return ref.container_name(self._settings.env)
        except ValueError:
            return None  # no container can have such a name

    def add(self, attempt: Attempt) -> AttemptHandle:
        """Take an attempt in, with a folder of its own; it is journalled already."""
        name = attempt.ref.container_name(self._settings.env)
        folder = self._settings.attempts_dir / name
        make_attempt_folder(folder)
        handle = AttemptHandle(
            attempt,
            name=name,
            folder=folder,
            journal=self._journal,
            outbox=self._context.outbox,
            clock=self._context.clock,
        )
        with self.lock:
            self.handles[attempt.ref] = handle
        return handle

    def supervise(self, handle: AttemptHandle) -> None:
        """Begin, or go on, to work on an attempt."""
        Supervisor(
            handle,
            self._context,
            find_blockers=partial(self._find_blockers, handle),
            on_done=self._on_done,
        ).start()

    def supervise_again(self) -> None:
        """Go on with attempts whose supervisor has ended without bringing them to an end."""
        for handle in self.list():
            if not handle.attempt.is_final and not handle.is_supervised:
                log.warning("attempt.supervised_again", attempt=handle.name)
                self.supervise(handle)

    def _find_blockers(self, handle: AttemptHandle) -> Iterable[AttemptHandle]:
        return [
            other
            for other in self.list()
            if other.ref.task_key == handle.ref.task_key and other.ref.fence < handle.ref.fence
        ]

    def _on_done(self, handle: AttemptHandle) -> None:
        with self.lock:
            handle.is_supervised = False
            if handle.acknowledged.is_set() and not self._context.stopping.is_set():
                self.drop(handle)

    def drop(self, handle: AttemptHandle) -> None:
        """Forget an attempt, and remove what there is of it here."""
        with self.lock:
            handle.drop()
            self.handles.pop(handle.ref, None)
            self._told_at.pop(handle.ref, None)
        log.info("attempt.forgotten", attempt=handle.name)
        remove_tree(handle.folder)
        remove_tree(handle.folder.with_name(build_prepare_name(handle.name)))

    def repeat_ends(self) -> None:
        """Repeat ends without an acknowledgement, and forget those that are too old."""
        now, at = self._context.clock.monotonic(), self._context.clock.now()
        keep = timedelta(hours=self._settings.keep_hours)
        for handle in self.list():
            attempt = handle.attempt
            if attempt.holds_slot:
                continue
            if at - attempt.phase_at > keep:
                log.error("attempt.expired", attempt=handle.name, phase=attempt.phase)
                self.drop(handle)
            elif now >= self._told_at.setdefault(handle.ref, now + REPEAT_SECONDS):
                self._told_at[handle.ref] = now + REPEAT_SECONDS
                handle.announce()
