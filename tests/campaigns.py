"""Whether all of each long campaign runs, or a sample of it."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")

ALL_CAMPAIGNS = os.environ.get("TOUCHSTONE_CAMPAIGNS") == "full"
"""Set by ``make test-campaigns``; otherwise a sample of each long campaign is run."""

SEED = os.environ.get("TOUCHSTONE_CAMPAIGN_SEED", "1")


def sample(items: Sequence[Item], count: int) -> list[Item]:
    """Return all items, or as many of them: always the same ones for the same seed."""
    if ALL_CAMPAIGNS:
        return list(items)
    chosen = set(random.Random(SEED).sample(range(len(items)), count))
    return [item for number, item in enumerate(items) if number in chosen]
