"""What people and programs see of Touchstone, served by Airflow's api-server."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


async def serve(scope: Scope, receive: Receive, send: Send) -> None:
    """
    Serve Touchstone's application, as an ASGI callable.

    The application is imported by the first request: every Airflow process loads plugins, and
    only the api-server serves them.
    """
    if scope["type"] == "http" and scope["path"] == f"{scope['root_path']}/pages":
        # Airflow hands the pages only what has a slash behind that, and people leave it out.
        from starlette.responses import RedirectResponse

        await RedirectResponse(f"{scope['path']}/")(scope, receive, send)
        return
    from touchstone.ui.app import get_app

    await get_app()(scope, receive, send)
