"""Who did what, as records keep it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

MAX_ACTIONS = 100
"""Newest ones that a record keeps: it has room for so many and no more."""


def note_action(record: Mapping[str, Any], *, at: datetime, by: str, action: str) -> dict[str, Any]:
    """Return a record's ``actions`` with one more: who did what, when; the newest are kept."""
    entry = {"at": at.isoformat(), "by": by, "action": action}
    return {"actions": [*(record.get("actions") or ()), entry][-MAX_ACTIONS:]}
