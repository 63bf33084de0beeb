"""
Open pages, which ask again every few seconds: a user who has many open is answered once a second.

Only who asks again, with the tag of what he has, may get what another page of his was answered a
moment ago. A user who opens a page, or comes back from a form, gets it anew, and so do his open
ones from then on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Annotated, Final

from fastapi import Depends, Request
from fastapi.responses import HTMLResponse

from touchstone.cache import KeptBytes
from touchstone.ui.conditional import mark_steady
from touchstone.ui.dependencies import Caller

KEPT_BYTES: Final = 8 * 1024**2
KEPT_SECONDS: Final = 1.0
"""As old as the published queue may be, which most pages show as well."""
_TURNS: Final = 64
"""Pages that are made anew at a time; two of the same lot of addresses wait for each other."""


class OpenPages:
    """
    Answers those that ask again.

    :param kept: Answers of a moment ago, by who asked for what.
    """

    def __init__(self, kept: KeptBytes) -> None:
        self._kept = kept
        # Of those that ask at the same moment one reads, and the others take what it was answered.
        self._turns = [threading.Lock() for _ in range(_TURNS)]

    def show(
        self, request: Request, caller: Caller, build: Callable[[], HTMLResponse]
    ) -> HTMLResponse:
        """
        Return a page.

        :param caller: Who looks; what others were answered is none of his business.
        :param build: Makes the page anew, with all its checks.
        """
        key = (caller, str(request.url))
        if "if-none-match" not in request.headers:
            return self._build(request, key, build)
        with self._turns[hash(key) % _TURNS]:
            found = self._kept.find(key)
            return HTMLResponse(found) if found is not None else self._build(request, key, build)

    def _build(
        self, request: Request, key: Hashable, build: Callable[[], HTMLResponse]
    ) -> HTMLResponse:
        answer = build()
        if answer.status_code == 200:
            self._kept.keep(key, bytes(answer.body))
            mark_steady(request.scope)
        return answer


_OPEN_PAGES: Final = OpenPages(KeptBytes(KEPT_BYTES, seconds=KEPT_SECONDS))


async def get_open_pages() -> OpenPages:
    """Return what this process answers open pages with."""
    return _OPEN_PAGES


OpenPagesDep = Annotated[OpenPages, Depends(get_open_pages)]
