"""What the API answers about who did what."""

from __future__ import annotations

from touchstone.core.answers.common import Answer


class AuditAct(Answer):
    """
    Something that somebody did.

    :param at: When, ISO 8601.
    :param by: Who.
    :param door: Where it came in: ``page``, ``API``, ``CLI``, ``Airflow`` or ``control plane``;
        ``None`` for an act from before there was an audit.
    :param kind: What it changed: ``submission``, ``server``, ``event`` or ``installation``.
    :param name: Which one; empty for the installation.
    :param action: What was done, in words.
    """

    at: str
    by: str
    door: str | None
    kind: str
    name: str
    action: str


class AuditLog(Answer):
    """
    Some acts, the newest first.

    :param acts: The acts.
    :param unreadable: How many more there are here whose records make no sense.
    :param next: The cursor of the next page; ``None`` on the last one.
    """

    acts: tuple[AuditAct, ...]
    unreadable: int = 0
    next: str | None = None
