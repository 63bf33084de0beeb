"""Pages for people, inside Airflow's own: what the API answers, as HTML."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


async def serve(scope: Scope, receive: Receive, send: Send) -> None:
    """
    Serve the pages, as an ASGI callable.

    The application is imported by the first request: every Airflow process loads plugins, and
    only the api-server serves them.
    """
    from touchstone.pages.app import get_app

    await get_app()(scope, receive, send)
