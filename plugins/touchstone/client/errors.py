"""What can go wrong between a client and an installation, named by what the user should do."""

from __future__ import annotations

from touchstone_agent.protocol.errors import PermanentError, TransientError


class Unreachable(TransientError):
    """The api-server does not answer, or answers with a fault of its own; it may later."""


class NotRegistered(TransientError):
    """A run was started for the submission, and has not got as far as its record."""


class StillRunning(TransientError):
    """What was waited for has not ended in the time that there was; it goes on."""


class LoginRefused(PermanentError):
    """The api-server does not take the user for who they say they are."""


class NotInstalled(PermanentError):
    """Something answers at the address, but it is not an Airflow with Touchstone's plugin."""


class Refused(PermanentError):
    """
    The api-server understood and said no.

    :param message: Its reason, in words for the user.
    :param status: The HTTP status.
    :param field: The field that is wrong; ``None`` if it is none in particular.
    """

    def __init__(self, message: str, *, status: int, field: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.field = field


class Forbidden(Refused):
    """The user may not do that; a user with more rights may."""


class NotFound(Refused):
    """There is no such thing, or it is another user's."""


class RunExists(Refused):
    """A run of that id exists already; nothing was started."""
