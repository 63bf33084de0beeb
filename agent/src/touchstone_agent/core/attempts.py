"""One attempt as the agent knows it, and the table of its legal moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from touchstone_agent.core.cursor import Chunk
from touchstone_agent.core.private import withhold
from touchstone_agent.protocol.messages import (
    FINAL_PHASES,
    AttemptPhase,
    AttemptRef,
    PhaseChanged,
    Start,
)

P = AttemptPhase

LEGAL_MOVES: Mapping[AttemptPhase, frozenset[AttemptPhase]] = {
    P.ACCEPTED: frozenset({P.PREPARING, P.CANCELLED, P.LOST}),
    # An input that can never be used ends an attempt before its container exists.
    P.PREPARING: frozenset({P.RUNNING, P.EXITED, P.CANCELLED, P.LOST}),
    P.RUNNING: frozenset({P.EXITED, P.CANCELLED, P.LOST}),
    P.EXITED: frozenset({P.UPLOADED}),
    P.UPLOADED: frozenset(),
    P.REJECTED: frozenset(),
    P.CANCELLED: frozenset(),
    P.LOST: frozenset(),
}
"""Where each phase may go next."""

SLOT_PHASES = frozenset({P.ACCEPTED, P.PREPARING, P.RUNNING})
"""Phases that hold a slot: a container may use the machine."""


class IllegalMove(RuntimeError):
    """The agent tried a move that the table does not have: a defect, never an input's fault."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """
    An accepted attempt, as journalled.

    :param start: The command that asked for it.
    :param phase: Where it is.
    :param phase_at: Since when, UTC.
    :param accepted_at: When it was accepted, UTC.
    :param reason: One line for ``cancelled`` and ``lost``.
    :param details: Facts of the phase, as sent with it.
    :param cancel_reason: Set once it must end; survives a crash of the agent.
    :param end_as: What it then ends as: ``cancelled``, or ``lost`` when nobody had asked for it.
    :param gpu_ids: GPUs it holds while it holds a slot, by UUID; by index if the version before
        accepted it.
    :param gpu_shares: How many attempts share each of them, this one among them.
    :param console_cursor: Bytes of console that are safely uploaded.
    :param chunks: Console chunks decided on and not yet known to be uploaded, in order.
    :param uploaded: Output paths that are uploaded.
    :param failed: Output paths that will never be uploaded, with the reason.
    :param console_closed: Whether no more console will be sent (complete, or refused).
    """

    start: Start
    phase: AttemptPhase
    phase_at: datetime
    accepted_at: datetime
    reason: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    cancel_reason: str | None = None
    end_as: AttemptPhase = AttemptPhase.CANCELLED
    gpu_ids: tuple[str, ...] = ()
    gpu_shares: int = 1
    console_cursor: int = 0
    chunks: tuple[Chunk, ...] = ()
    uploaded: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    console_closed: bool = False

    @property
    def ref(self) -> AttemptRef:
        """Return the identity of the attempt."""
        return self.start.ref

    @property
    def is_private(self) -> bool:
        """Tell whether nothing that it leaves may be sent anywhere."""
        return self.start.private_data is not None

    @property
    def is_final(self) -> bool:
        """Tell whether nothing will happen to it any more."""
        return self.phase in FINAL_PHASES

    @property
    def holds_slot(self) -> bool:
        """Tell whether it takes one of the server's slots."""
        return self.phase in SLOT_PHASES


def move(
    attempt: Attempt,
    phase: AttemptPhase,
    *,
    at: datetime,
    reason: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> Attempt:
    """
    Return the attempt in another phase.

    :param at: The time, UTC.
    :param reason: One line for ``cancelled`` and ``lost``.
    :param details: Facts of the new phase.
    :raises IllegalMove: If the table does not allow it.
    """
    if phase not in LEGAL_MOVES[attempt.phase]:
        raise IllegalMove(f"{attempt.ref.task_key}: {attempt.phase} -> {phase}")
    return replace(attempt, phase=phase, phase_at=at, reason=reason, details=dict(details or {}))


def build_phase_event(attempt: Attempt) -> PhaseChanged:
    """Return the event of the attempt's present phase; the same each time it is sent."""
    event = PhaseChanged(
        ref=attempt.ref,
        phase=attempt.phase,
        at=attempt.phase_at,
        reason=attempt.reason,
        details=dict(attempt.details),
    )
    return withhold(event) if attempt.is_private else event
