"""Errors of Touchstone, named by what the caller should do."""

from __future__ import annotations


class TouchstoneError(Exception):
    """Base of all errors that Touchstone raises on purpose."""


class TransientError(TouchstoneError):
    """
    It may work later.

    :param message: What failed, for which id, and what happens next.
    :param retry_after: Seconds to wait before another try; ``None`` for the caller's own pace.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermanentError(TouchstoneError):
    """It will never work with these arguments; do not try again."""


class ConfigurationError(PermanentError, ValueError):
    """An argument or a setting is wrong; the message names it and the way out."""


class MessageTooLarge(ConfigurationError):
    """A message is larger than a queue takes; sending it again will not help."""


class MessageRefused(PermanentError):
    """A message is forged, expired, for somebody else or of an unknown version; drop it."""


class LeaseLost(TouchstoneError):
    """Another agent may own the attempt: stop it, log locally, report nothing."""
