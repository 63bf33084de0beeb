"""How the emulated service says no."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

NO_CAPACITY = (
    "There are no longer any instances available with the requested specifications. "
    "Please refresh and try again."
)
HTML = "<html><head><title>{0}</title></head><body><h1>{0}</h1><hr>cloudflare</body></html>"


class Refused(Exception):
    """
    The service answers with an error.

    :param status: HTTP status (REST); GraphQL says the same with 200 and ``errors`` mostly.
    :param detail: Its prose.
    :param errors: Single violations.
    :param headers: More headers.
    :param media: ``problem``, ``html`` (a proxy in front answered) or ``text``.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: list[str] | None = None,
        headers: Mapping[str, str] | None = None,
        media: str = "problem",
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})
        self.media = media

    @property
    def title(self) -> str:
        """Return HTTP's phrase."""
        try:
            return HTTPStatus(self.status).phrase
        except ValueError:
            return "Error"

    def build_problem(self) -> dict[str, Any]:
        """Return the problem document."""
        problem: dict[str, Any] = {
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors is not None:
            problem["errors"] = self.errors
        return problem

    def build_html(self) -> str:
        """Return what a proxy in front would show."""
        return HTML.format(f"{self.status} {self.title}")


class Dropped(Exception):
    """The connection breaks without an answer."""


class OddBody(Exception):
    """
    An answer of success that says nothing.

    :param kind: ``null_pod``, ``null_data`` or ``empty_errors``.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


def build_error(params: Mapping[str, Any]) -> Refused:
    """Return the server error that a fault's parameters describe."""
    media = "html" if params.get("html") else "problem"
    return Refused(int(params["status"]), "internal server error", media=media)


def build_throttle(params: Mapping[str, Any]) -> Refused:
    """Return a 429."""
    return Refused(
        429,
        "rate limit exceeded for the minute window",
        headers={"Retry-After": str(params.get("retry_after", 2))},
    )
