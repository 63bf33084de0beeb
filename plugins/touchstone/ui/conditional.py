"""Answers that a caller has already are not sent again: ETag, If-None-Match, 304."""

from __future__ import annotations

import hashlib
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_DIGITS = 32
_TAG = re.compile(r'(?:W/)?"([^"]*)"')
_HEARTBEAT = re.compile(
    rb'"dispatcher":\{"is_alive":(?:true|false),"is_paused":(?:true|false),"seen_at":"[^"]*"'
)
"""A dispatcher's last sign of life, which is another one each second. Whether it counts as alive is
in the answer as well, and makes another tag. In a text of somebody's the quotes are escaped."""


class Conditional:
    """
    Gives each whole answer to a GET its tag, and answers 304 where the caller has it already.

    The route has run by then, with all its checks: it is the way to the caller that is saved, and
    the caller's work. What is sent in pieces, or has a tag, passes as it is.

    :param app: The application inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        known = Headers(scope=scope).get("if-none-match", "")
        held: Message | None = None

        async def send_tagged(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start" and _may_be_tagged(message):
                held = message  # the tag is in the header, and made of what follows
                return
            if held is not None:
                start, held = held, None
                if message["type"] == "http.response.body" and not message.get("more_body"):
                    message = _tag(start, message, known)
                await send(start)
            await send(message)

        await self._app(scope, receive, send_tagged)


def compute_tag(body: bytes) -> str:
    """Return the tag of an answer: weak, as the dispatcher's last sign of life is no part of it."""
    steady = _HEARTBEAT.sub(_leave_out_time, body)
    return f'W/"{hashlib.sha256(steady).hexdigest()[:_DIGITS]}"'


def is_known(known: str, tag: str) -> bool:
    """Tell whether a header ``If-None-Match`` names a tag, or any."""
    return known.strip() == "*" or tag.removeprefix("W/").strip('"') in _TAG.findall(known)


def _leave_out_time(found: re.Match[bytes]) -> bytes:
    return found[0].partition(b',"seen_at":')[0]


def _may_be_tagged(start: Message) -> bool:
    return start["status"] == 200 and "etag" not in Headers(raw=start["headers"])


def _tag(start: Message, body: Message, known: str) -> Message:
    """Put the tag into the header; return the body that is to be sent, which may be none."""
    headers = MutableHeaders(raw=start["headers"])
    tag = compute_tag(body.get("body", b""))
    headers["ETag"] = tag
    if is_known(known, tag):
        start["status"] = 304
        for name in ("content-length", "content-type"):
            if name in headers:
                del headers[name]
        body = {"type": "http.response.body", "body": b""}
    start["headers"] = headers.raw
    return body
