"""Answers that a caller has already are not sent again: ETag, If-None-Match, 304."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from touchstone.cache import KeptBytes

KEPT_STEADY: Final = 4 * 1024**2
"""Bytes of steady answers: a hundred pages, or two thousand short ones."""
_DIGITS = 32
_STEADY: Final = "touchstone.steady"
_TAG = re.compile(r'(?:W/)?"([^"]*)"')
_HEARTBEAT = re.compile(
    rb'"dispatcher":\{"is_alive":(?:true|false),"is_paused":(?:true|false),"seen_at":"[^"]*"'
)
"""A dispatcher's last sign of life, which is another one each second. Whether it counts as alive is
in the answer as well, and makes another tag. In a text of somebody's the quotes are escaped."""
_AGO = re.compile(rb'(<time datetime="[^"]*" title="[^"]*">)[^<]*')
"""How long ago a moment was, which passes without any change; the pages' script tells it anew. In a
text of somebody's the brackets are escaped."""


class Conditional:
    """
    Gives each whole answer to a GET its tag, and answers 304 where the caller has it already.

    The route has run by then, with all its checks: it is the way to the caller that is saved, and
    the caller's work. What is sent in pieces, or has a tag, passes as it is.

    An answer that its route has marked as steady stands for a moment: who asks again, by the tag of
    what he has and with the same credentials, gets it before the route runs. Who has other
    credentials does not, nor who has none.

    :param app: The application inside.
    :param kept: Steady answers, for as long as they stand; ``None`` where there are none.
    """

    def __init__(self, app: ASGIApp, kept: KeptBytes | None = None) -> None:
        self._app = app
        self._kept = kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        known = headers.get("if-none-match", "")
        key = _build_key(scope, headers) if self._kept is not None else None
        if known and key is not None and await self._answer_at_once(key, known, send):
            return
        held: Message | None = None

        async def send_tagged(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start" and _may_be_tagged(message):
                held = message  # the tag is in the header, and made of what follows
                return
            if held is not None:
                start, held = held, None
                if message["type"] == "http.response.body" and not message.get("more_body"):
                    if self._kept is not None and key is not None and scope.get(_STEADY):
                        kind = Headers(raw=start["headers"]).get("content-type", "")
                        self._kept.keep(key, kind.encode() + b"\n" + message.get("body", b""))
                    message = _tag(start, message, known)
                await send(start)
            await send(message)

        await self._app(scope, receive, send_tagged)

    async def _answer_at_once(self, key: bytes, known: str, send: Send) -> bool:
        """Give a steady answer, if there is one."""
        found = self._kept.find(key) if self._kept is not None else None
        if found is None:
            return False
        kind, _, body = found.partition(b"\n")
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        start: Message = {"type": "http.response.start", "status": 200, "headers": headers}
        message = _tag(start, {"type": "http.response.body", "body": body}, known)
        await send(start)
        await send(message)
        return True


def mark_steady(scope: Scope) -> None:
    """Mark the answer to a request as one that stands for a moment, for the same credentials."""
    scope[_STEADY] = True


def _build_key(scope: Scope, headers: Headers) -> bytes | None:
    """
    Return who asks for what, by all credentials of the request; ``None`` if it has none.

    It is a digest, so that no credential is kept.
    """
    credentials = [headers.getlist(name) for name in ("cookie", "authorization")]
    if not any(credentials):
        return None
    asked = (headers.get("host"), scope.get("root_path"), scope["path"], scope["query_string"])
    return hashlib.sha256(repr((credentials, asked)).encode()).digest()


def compute_tag(body: bytes) -> str:
    """Return the tag of an answer: weak, as what changes by the mere passing of time is not in."""
    steady = _AGO.sub(rb"\1", _HEARTBEAT.sub(_leave_out_time, body))
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
