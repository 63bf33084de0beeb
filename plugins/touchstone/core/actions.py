"""Who did what to a record, when: kept with it, and never too many."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

MAX_ACTIONS: Final = 100
"""Newest ones that a record keeps: it has room for so many and no more."""

MAX_ACTION_CHARACTERS: Final = 600
"""Longer than a reason that somebody may give, and what is done for it."""


def note_action(
    record: Mapping[str, Any], *, at: datetime, by: str, action: str, **more: str
) -> dict[str, Any]:
    """
    Return a record's ``actions`` with one more; the newest are kept.

    :param record: The record as it is.
    :param at: When.
    :param by: Who did it.
    :param action: What, in words.
    :param more: What else to keep of it.
    """
    entry = {"at": at.isoformat(), "by": by, "action": action[:MAX_ACTION_CHARACTERS], **more}
    return {"actions": [*(record.get("actions") or ()), entry][-MAX_ACTIONS:]}
