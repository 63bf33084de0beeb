"""HTTP connections, through the proxies that this machine's environment names."""

from __future__ import annotations

import urllib.request
from typing import Any
from urllib.parse import urlsplit

import urllib3


class HttpPools:
    """One pool of connections per proxy; urllib3 itself ignores the proxy variables."""

    def __init__(self) -> None:
        self._pools: dict[str | None, urllib3.PoolManager] = {}

    def find(self, url: str) -> urllib3.PoolManager:
        """Return the pool by which a URL is reached."""
        parts = urlsplit(url)
        proxy = None
        if not urllib.request.proxy_bypass(parts.hostname or ""):
            proxy = urllib.request.getproxies().get(parts.scheme)
        if proxy not in self._pools:
            options: dict[str, Any] = {"num_pools": 4, "maxsize": 4, "blocksize": 65536}
            self._pools[proxy] = (
                urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)
            )
        return self._pools[proxy]
