"""
Open pages, which ask again as the pages' script does.

A process of its own, so that what the clients cost is told apart.

Its input has a line for each page: the address. Its end ends all. What came of them is printed.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import sys
import time
from typing import Any, Final

import httpx

_LIVE: Final = re.compile(r'<body[^>]*\bdata-live="(\d+)"')
_LOG: Final = re.compile(r'<div id="live" data-next="(\d+)" data-attempt="([^"]+)"')
LONGEST_PAUSE: Final = 30.0
LONGEST_QUIET: Final = 10.0
LATER: Final = 1.25
"""As in the pages' script."""


class Followers:
    """
    Asks for pages over and over.

    :param url: What all pages are below.
    :param tokens: Of the users, who look in turn: what one was answered is nothing to the other.
    """

    def __init__(self, url: str, tokens: list[str]) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._clients = [
            httpx.AsyncClient(
                base_url=url,
                cookies={"_token": token},
                timeout=120,
                trust_env=False,
                limits=limits,
            )
            for token in tokens
        ]
        self._spans: list[float] = []
        self._statuses: dict[int, int] = {}

    async def run(self) -> dict[str, Any]:
        """Open a page for each line of the input, until it ends; return what came of them."""
        tasks: list[asyncio.Task[None]] = []
        began, before = time.monotonic(), time.process_time()
        while path := (await asyncio.to_thread(sys.stdin.readline)).strip():
            if not tasks:
                began, before = time.monotonic(), time.process_time()
            tasks.append(asyncio.create_task(self._follow(path, len(tasks))))
        cpu = (time.process_time() - before) / (time.monotonic() - began)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        spans = sorted(self._spans) or [0.0]
        return {
            "open": len(tasks),
            "answers": len(self._spans),
            "statuses": self._statuses,
            "p50": statistics.median(spans),
            "p95": spans[int(0.95 * (len(spans) - 1))],
            "cpu": cpu,
        }

    async def _follow(self, path: str, place: int) -> None:
        client = self._clients[place // 2 % len(self._clients)]
        # Nobody opens two hundred pages at the same moment.
        await asyncio.sleep(place * 0.02)
        seconds = pause = 3.0
        tag, failures, looks, address, longest = None, 0, 0, path, LONGEST_QUIET
        while True:
            headers = {"Accept": "text/html", **({"If-None-Match": tag} if tag else {})}
            began = time.perf_counter()
            try:
                answer = await client.get(address, headers=headers)
                if answer.status_code >= 500:
                    raise httpx.HTTPError(f"{answer.status_code}")
            except httpx.HTTPError:
                failures += 1
                self._count(0, began)
                await asyncio.sleep(min(2**failures, LONGEST_PAUSE))
                continue
            failures, looks = 0, looks + 1
            self._count(answer.status_code, began)
            if answer.status_code == 304:
                pause = max(seconds, min(pause * LATER, longest))
            else:
                live = _LIVE.search(answer.text)
                # One that is over stands still in the browser; here somebody opens it again.
                pause = seconds = float(live[1]) if live else seconds
                # Of a log the script asks for what is new, and more often.
                if log := _LOG.search(answer.text):
                    address, longest = f"{path}?attempt={log[2]}&offset={log[1]}", 2 * seconds
                # The script does not have the tag of the page that it came with.
                tag = answer.headers.get("ETag") if looks > 1 else None
            await asyncio.sleep(pause)

    def _count(self, status: int, began: float) -> None:
        self._statuses[status] = self._statuses.get(status, 0) + 1
        self._spans.append(time.perf_counter() - began)


def main() -> None:
    """Follow pages of the address in the first argument, with the tokens of the others."""
    print(json.dumps(asyncio.run(Followers(sys.argv[1], sys.argv[2:]).run())))


if __name__ == "__main__":
    main()
