"""What people and programs see of Touchstone, served by Airflow's api-server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]


async def serve(
    scope: Message,
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    """
    Serve Touchstone's application, as an ASGI callable.

    The application is imported by the first request: every Airflow process loads plugins, and
    only the api-server serves them.
    """
    from touchstone.ui.app import get_app

    await get_app()(scope, receive, send)
