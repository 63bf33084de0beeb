"""Plans and estimates of what a test names, and of nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from touchstone.core import estimates, placement
from touchstone.core.eligibility import Resource
from touchstone.core.estimates import Estimate
from touchstone.core.fairness import Key, Waiting
from touchstone.core.placement import Plan, Snapshot


def plan(waiting: Sequence[Waiting], resources: Sequence[Resource], **facts: Any) -> Plan:
    """Decide as :func:`touchstone.core.placement.plan` does."""
    return placement.plan(Snapshot(waiting=waiting, resources=resources, **facts))


def estimate(
    waiting: Sequence[Waiting], resources: Sequence[Resource], *, stretch: float = 1.0, **facts: Any
) -> dict[Key, Estimate]:
    """Estimate as :func:`touchstone.core.estimates.estimate` does."""
    snapshot = Snapshot(waiting=waiting, resources=resources, **facts)
    return estimates.estimate(snapshot, stretch=stretch)
