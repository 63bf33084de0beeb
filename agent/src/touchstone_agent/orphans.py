"""Containers of this environment and server that the journal does not know."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import datetime

from pydantic import ValidationError

from touchstone_agent.core.attempts import Attempt
from touchstone_agent.core.gpus import is_gpu_id
from touchstone_agent.core.ports import Clock, Runtime
from touchstone_agent.logs import Log
from touchstone_agent.protocol.errors import PermanentError, TransientError
from touchstone_agent.protocol.facts import MAX_GPU_SHARES
from touchstone_agent.protocol.messages import AttemptPhase, Start
from touchstone_agent.protocol.names import PREPARE_SUFFIX
from touchstone_agent.supervisor import STOP_GRACE_SECONDS

log = Log("orphans")


class Orphans:
    """
    Adopts or ends what runs here in this agent's name without its knowledge.

    They exist when the state folder was lost. Whatever can be adopted is; the rest is given the
    time of a quarantine and then removed. Containers of another environment or server are not
    even seen: the runtime does not list them.

    :param runtime: Where attempts run.
    :param clock: The clock.
    :param grace_seconds: How long what cannot be adopted may go on.
    """

    def __init__(self, runtime: Runtime, clock: Clock, *, grace_seconds: float) -> None:
        self._runtime = runtime
        self._clock = clock
        self._grace_seconds = grace_seconds
        self._lock = threading.Lock()
        self._deadlines: dict[str, float] = {}

    @property
    def names(self) -> frozenset[str]:
        """Return the names of those that are in quarantine."""
        with self._lock:
            return frozenset(self._deadlines)

    def look(
        self,
        is_running: Mapping[str, bool],
        adopt: Callable[[str, Mapping[str, str]], bool],
    ) -> None:
        """
        Look for them.

        :param is_running: Whether an attempt that is known holds a slot, by name. One that does
            not should have no container any more.
        :param adopt: Takes one in, by name and labels; tells whether it could.
        :raises TransientError: If the engine does not answer.
        """
        for name, labels in self._runtime.list_labels().items():
            if name in is_running:
                if not is_running[name]:
                    self._runtime.remove(name)
            elif not adopt(name, labels):
                # The attempt that needs what was to be prepared does it again.
                grace_seconds = 0 if name.endswith(PREPARE_SUFFIX) else self._grace_seconds
                with self._lock:
                    ends = self._clock.monotonic() + grace_seconds
                    is_new = self._deadlines.setdefault(name, ends) == ends
                if is_new:
                    log.warning("container.unknown", container=name)

    def end_soon(self, name: str) -> None:
        """End one without waiting for its grace, if it is here."""
        with self._lock:
            if name in self._deadlines:
                self._deadlines[name] = self._clock.monotonic()

    def end_overdue(self) -> None:
        """Remove those whose grace is over; what cannot be removed yet is tried again."""
        now = self._clock.monotonic()
        with self._lock:
            due = [name for name, ends in self._deadlines.items() if now >= ends]
        for name in due:
            try:
                self._runtime.stop(name, grace_seconds=STOP_GRACE_SECONDS)
                self._runtime.remove(name)
            except (TransientError, PermanentError) as error:
                log.warning("container.not_removed", container=name, problem=str(error))
                continue
            with self._lock:
                del self._deadlines[name]
            log.warning("container.removed", container=name)


def build_adopted(labels: Mapping[str, str], *, runtime: str, now: datetime) -> Attempt | None:
    """
    Return the attempt that a container's labels tell of; ``None`` if they are not complete.

    :param runtime: Name of the runtime it was found in.
    :param now: The time, UTC.
    """
    try:
        start = Start.model_validate_json(labels["touchstone.start"])
        gpu_ids = tuple(gpu for gpu in labels["touchstone.gpus"].split(",") if gpu)
        # Absent from the version before, under which nothing was shared.
        gpu_shares = int(labels.get("touchstone.gpu_shares", "1"))
    except (KeyError, ValidationError, ValueError):
        return None
    if not all(map(is_gpu_id, gpu_ids)) or not 1 <= gpu_shares <= MAX_GPU_SHARES:
        return None
    return Attempt(
        start=start,
        phase=AttemptPhase.RUNNING,
        phase_at=now,
        accepted_at=now,
        details={"runtime": runtime},
        gpu_ids=gpu_ids,
        gpu_shares=gpu_shares,
    )
