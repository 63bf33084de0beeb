"""Times as records hold them."""

from __future__ import annotations

from datetime import UTC, datetime


def read_time(text: str) -> datetime:
    """
    Return a time of a record, UTC.

    One without a zone is taken as UTC: nothing new is written so, but a record may hold one from
    before that was refused, and comparing it with others would raise for ever.

    :param text: ISO 8601.
    :raises ValueError: If it is none.
    """
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
