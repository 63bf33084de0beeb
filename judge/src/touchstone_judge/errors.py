"""Reasons that stand in place of figures."""

from __future__ import annotations

import re
from typing import Final

MAX_REASON: Final = 400


class NotJudged(Exception):
    """
    A training whose figures cannot be the judge's own.

    :ivar reason: Why, in one line that can be shown to anybody.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason if len(reason) <= MAX_REASON else f"{reason[: MAX_REASON - 3]}..."


class JudgeFault(ValueError):
    """The judge's own environment, data or rules are not as they should be."""


def show(value: object, limit: int = 60) -> str:
    """Return what a file holds, as one line of printable ASCII that is not long."""
    text = value if isinstance(value, str) else repr(value)
    plain = re.sub(r"[^\x20-\x7e]", "?", text[: 4 * limit])
    return plain if len(plain) <= limit else f"{plain[: limit - 3]}..."
