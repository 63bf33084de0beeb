"""What holds for the whole installation, in a note of its own beside the servers' records."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from touchstone.core.records.actions import add_action
from touchstone.core.records.notes import Control
from touchstone.stores.records import RecordStore


def read_control(records: RecordStore) -> Control:
    """Return the state of the whole installation; the defaults if it was never changed."""
    return records.find_note(Control)


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

    def decide(found: Control) -> Control | None:
        if found.is_paused == paused and (not paused or found.reason == reason):
            return None
        action = f"pause: {reason}" if paused and reason else "pause" if paused else "resume"
        return found.change(
            is_paused=paused,
            by=by,
            at=now,
            reason=reason,
            actions=add_action(found.actions, at=now, by=by, action=action),
        )

    return records.change_note(Control, decide)


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

    def decide(found: Control) -> Control | None:
        if found.weights == weights:
            return None
        action = "fleet apply: weights"
        return found.change(
            weights=dict(weights), actions=add_action(found.actions, at=now, by=by, action=action)
        )

    records.change_note(Control, decide)
