"""
Bringing the two sides back in step after HELLO and SYNC.

Ending a real training by mistake costs hours, running a stray one costs minutes: whatever the
control plane does not expect is first quarantined, and whatever it expects and is not here is
given time to arrive, because its START may be on the other queue still.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from touchstone_agent.core.attempts import Attempt
from touchstone_agent.protocol.messages import AttemptRef


@dataclass(frozen=True, kw_only=True)
class SyncPlan:
    """
    What follows from a SYNC.

    :param expected: Known here and expected: say again where they are.
    :param unexpected: Running here and not expected: quarantine.
    :param missing: Expected and unknown here: lost, unless their START still arrives.
    """

    expected: tuple[AttemptRef, ...]
    unexpected: tuple[AttemptRef, ...]
    missing: tuple[AttemptRef, ...]


def plan_sync(
    expected: Collection[AttemptRef],
    attempts: Collection[Attempt],
    *,
    asked_at: datetime,
) -> SyncPlan:
    """
    Compare what the control plane expects with what is here.

    :param expected: The list of the SYNC.
    :param attempts: All attempts in the journal.
    :param asked_at: When the SYNC was issued; whatever was accepted later cannot be in it.
    """
    wanted = set(expected)
    known = {a.ref for a in attempts}
    unexpected = tuple(
        a.ref for a in attempts if a.holds_slot and a.ref not in wanted and a.accepted_at < asked_at
    )
    return SyncPlan(
        expected=tuple(ref for ref in expected if ref in known),
        unexpected=unexpected,
        missing=tuple(ref for ref in expected if ref not in known),
    )
