"""What waits between tries look like when chance has taken its share off."""

from __future__ import annotations

from collections.abc import Sequence

JITTER = 0.25


def are_jittered(waits: Sequence[float], longest: Sequence[float]) -> bool:
    """Tell whether each wait is its longest, or by chance up to a quarter shorter."""
    pairs = zip(waits, longest, strict=False)
    return len(waits) == len(longest) and all((1 - JITTER) * w <= x <= w for x, w in pairs)
