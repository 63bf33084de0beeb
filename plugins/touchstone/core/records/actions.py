"""Who did what to a record, when: kept with that record, and never too many."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from touchstone.core.records.kept import Part
from touchstone.core.records.stored import Time


class Action(Part):
    """
    What somebody did.

    :param at: When.
    :param by: Who.
    :param action: What, in words.
    :param act: Mark of the entry in Airflow's log that tells of it; ``None`` for what was done
        elsewhere.
    """

    at: Time
    by: str
    action: str
    act: str | None = None


MAX_ACTIONS: Final = 100
"""Newest ones that a record keeps: it has room for so many and no more."""

MAX_ACTION_CHARACTERS: Final = 600
"""Longer than a reason that somebody may give, and what is done for it."""


def add_action(
    actions: Sequence[Action] | None, *, at: datetime, by: str, action: str, act: str | None = None
) -> tuple[Action, ...]:
    """
    Return a record's actions with one more; the newest are kept.

    :param actions: What was done before.
    :param at: When.
    :param by: Who did it.
    :param action: What, in words.
    :param act: Mark of the entry in Airflow's log that tells of it.
    """
    entry = Action(at=at, by=by, action=action[:MAX_ACTION_CHARACTERS])
    if act is not None:
        entry = entry.change(act=act)
    return (*(actions or ()), entry)[-MAX_ACTIONS:]
