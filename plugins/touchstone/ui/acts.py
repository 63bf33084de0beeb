"""
Notes what people do to our runs by Airflow's API, before it is done, and how it was answered.

A layer around all of Airflow's api-server, so it must cost other requests nothing: all else is
imported by the first request that it has something to note of.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Final

from touchstone.core.acts import concerns_us, find_acts

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

MAX_BODY_BYTES: Final = 1024 * 1024
"""Larger than whatever people send there; what cannot be read is not let pass unread."""


class ActsMiddleware:
    """
    Lets a request that changes something of ours pass only when it is noted.

    :param app: Airflow's application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not concerns_us(scope["method"], scope["path"]):
            await self._app(scope, receive, send)
            return
        body = await _read_body(receive)
        if body is None:
            await _refuse(send, 413, f"the body is larger than {MAX_BODY_BYTES} bytes")
            return
        acts = find_acts(scope["method"], scope["path"], body)
        user = await _find_user(scope) if acts else None
        if user is None:
            # There is nothing to note, or Airflow is about to refuse it.
            await self._app(scope, _replay(body, receive), send)
            return
        from touchstone.airflow_db.acts import settle_entries, write_entries

        try:
            entries = await asyncio.to_thread(write_entries, acts, by=user)
        except Exception:
            log.exception("%s %s is refused: it cannot be noted", scope["method"], scope["path"])
            await _refuse(send, 503, "Airflow's log cannot be written right now; try again")
            return
        status: int | None = None

        async def send_and_see(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, _replay(body, receive), send_and_see)
        finally:
            try:
                await asyncio.to_thread(settle_entries, entries, status=status or 500)
            except Exception:
                log.exception("how it ended is not noted: %s %s", scope["method"], scope["path"])


async def _read_body(receive: Receive) -> bytes | None:
    """Return a request's body; ``None`` if it is too large."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body"):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return what hands a body out again that was read already."""
    is_read = False

    async def receive_again() -> Message:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


async def _find_user(scope: Scope) -> str | None:
    """Return who asks, by whatever Airflow itself would go by; ``None`` if it knows nobody."""
    from airflow.api_fastapi.core_api.security import bearer_scheme, get_user
    from fastapi import HTTPException, Request

    request = Request(scope)
    try:
        user = await get_user(request, None, await bearer_scheme(request))
    except HTTPException:
        return None
    return user.get_name()


async def _refuse(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
