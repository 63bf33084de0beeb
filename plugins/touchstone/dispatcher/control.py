"""What holds for the whole installation, in a record of its own beside the servers'."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from touchstone.core.actions import note_action
from touchstone.hooks.records import Record, RecordExists, RecordNotFound, RecordStore

CONTROL: Final = "#control"
"""Its key in the servers' table; no server is called so."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """
    What holds for the whole installation.

    :param is_paused: Whether nothing new may start.
    :param by: Who paused or resumed last.
    :param at: When, ISO 8601.
    :param reason: Why, in their words.
    :param weights: Share of each submitter relative to the others', from the fleet file.
    :param actions: Who did what, when; the newest last.
    """

    is_paused: bool = False
    by: str | None = None
    at: str | None = None
    reason: str | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    actions: tuple[Mapping[str, str], ...] = ()


def read_control(records: RecordStore) -> Control:
    """Return what holds for the whole installation; the defaults if nobody ever changed it."""
    record = records.find_server(CONTROL) or {}
    return Control(
        is_paused=bool(record.get("placements_paused")),
        by=record.get("by"),
        at=record.get("at"),
        reason=record.get("reason"),
        weights=record.get("weights") or {},
        actions=tuple(record.get("actions") or ()),
    )


def set_paused(
    records: RecordStore, *, paused: bool, by: str, reason: str | None, now: datetime
) -> Control:
    """
    Pause or resume placements; terminations, uploads and metering go on in any case.

    :param records: The records.
    :param paused: Whether nothing new may start.
    :param by: Who asks.
    :param reason: Why, for others to read.
    :param now: The time, UTC.
    """

    def decide(record: Record) -> Record | None:
        if bool(record.get("placements_paused")) == paused and (
            not paused or record.get("reason") == reason
        ):
            return None
        action = f"pause: {reason}" if paused and reason else "pause" if paused else "resume"
        return {
            "placements_paused": paused,
            "by": by,
            "at": now.isoformat(),
            "reason": reason,
            **note_action(record, at=now, by=by, action=action),
        }

    _change_control(records, decide)
    return read_control(records)


def set_weights(
    records: RecordStore, *, weights: Mapping[str, float], by: str, now: datetime
) -> None:
    """
    Keep the submitters' shares, for every dispatcher to read.

    :param records: The records.
    :param weights: By submitter; 1 for those not named.
    :param by: Who asks.
    :param now: The time, UTC.
    """

    def decide(record: Record) -> Record | None:
        if (record.get("weights") or {}) == dict(weights):
            return None
        return {
            "weights": dict(weights),
            **note_action(record, at=now, by=by, action="fleet apply: weights"),
        }

    _change_control(records, decide)


def _change_control(records: RecordStore, decide: Callable[[Record], Record | None]) -> None:
    try:
        records.change_server(CONTROL, decide)
    except RecordNotFound:
        if not decide({}):
            return
        with contextlib.suppress(RecordExists):  # somebody else was first
            records.create_server({"server": CONTROL})
        records.change_server(CONTROL, decide)
