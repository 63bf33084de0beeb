"""What stands before both APIs: keys, rate limits, faults of requests, and the log of requests."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fakes.runpod.cloud import Cloud, Order
from fakes.runpod.refusals import Dropped, OddBody, Refused, build_error, build_throttle
from fakes.runpod.store import PodRow


@dataclass(frozen=True, kw_only=True)
class Caller:
    """
    Who asks.

    :param key: The API key.
    :param pod: The pod whose own key it is; ``None`` for the account's.
    """

    key: str
    pod: PodRow | None = None

    def require_account(self) -> None:
        """Raise unless it is the account's key."""
        if self.pod is not None:
            raise Refused(403, "this key is for one pod only")

    def require_pod(self, pod_id: str) -> None:
        """Raise when it is another pod's key."""
        if self.pod is not None and self.pod.id != pod_id:
            raise Refused(403, "this key is for another pod")


@dataclass(frozen=True, kw_only=True)
class Window:
    """A quota: so many requests in so many seconds."""

    name: str
    quota: int
    seconds: int


DOCUMENTED_WINDOWS = (
    Window(name="minute", quota=60, seconds=60),
    Window(name="hour", quota=3000, seconds=3600),
    Window(name="day", quota=50_000, seconds=86_400),
)


class RateLimit:
    """
    Counts requests per key.

    :param windows: The quotas; none means no limit and no headers.
    """

    def __init__(self, windows: tuple[Window, ...]) -> None:
        self.windows = windows
        self._seen: dict[tuple[str, str], deque[float]] = {}

    def take(self, key: str) -> dict[str, str]:
        """Count a request; return the headers. Raise ``Refused`` (429) when it is one too many."""
        now = time.monotonic()
        states, refused = [], None
        for window in self.windows:
            seen = self._seen.setdefault((key, window.name), deque())
            while seen and seen[0] <= now - window.seconds:
                seen.popleft()
            wait = math.ceil(window.seconds - (now - seen[0])) if seen else window.seconds
            if len(seen) >= window.quota:
                refused = refused or (window, wait)
            states.append((window, max(0, window.quota - len(seen) - 1), wait))
        if not self.windows:
            return {}
        headers = {
            "RateLimit": ", ".join(f'"{w.name}";r={left};t={wait}' for w, left, wait in states),
            "RateLimit-Policy": ", ".join(
                f'"{w.name}";q={w.quota};w={w.seconds}' for w in self.windows
            ),
        }
        if refused is not None:
            window, wait = refused
            raise Refused(
                429,
                f"rate limit exceeded for the {window.name} window",
                headers={**headers, "Retry-After": str(wait)},
            )
        for window in self.windows:
            self._seen[key, window.name].append(now)
        return headers


class Gateway:
    """
    Lets requests in.

    :param cloud: The service.
    :param limit: Its rate limit.
    """

    def __init__(self, cloud: Cloud, limit: RateLimit) -> None:
        self.cloud = cloud
        self.limit = limit

    def check_platform(self, operation: str, api: str) -> None:
        """Raise what hits all requests alike, before anybody looks at the key."""
        context = {"operation": operation, "api": api}
        if self.cloud.draw("platform.cloudflare", **context) is not None:
            raise Refused(403, "error code: 1010", media="text")
        if self.cloud.draw("platform.retired", **context) is not None:
            raise Refused(410, "this API has been retired: use https://api.runpod.io/v2")
        if (params := self.cloud.draw("platform.unavailable", **context)) is not None:
            raise Refused(int(params["status"]), "unavailable", media="html")
        if (params := self.cloud.draw("platform.throttled", **context)) is not None:
            raise build_throttle(params)

    def identify(self, key: str | None, operation: str, api: str) -> Caller:
        """Return whose key it is. Raise ``Refused`` (401, 403) when it opens nothing."""
        if not key:
            raise Refused(401, "missing bearer token")
        context = {"operation": operation, "api": api}
        if self.cloud.draw("platform.key_revoked", **context) is not None:
            raise Refused(401, "invalid api key")
        if key in self.cloud.store.get_value("revoked_keys", []):
            raise Refused(401, "invalid api key")
        if self.cloud.draw("platform.forbidden", **context) is not None:
            raise Refused(403, "access denied")
        pod = self.cloud.find_by_key(key)
        if key.startswith("rpa_pod_") and (pod is None or pod.is_gone):
            raise Refused(401, "invalid api key")
        return Caller(key=key, pod=pod)

    async def create(self, order: Order) -> PodRow:
        """Rent a pod, with all that can go wrong around it."""
        context = _describe(order)
        draw = self.cloud.draw
        self._refuse_create(context)
        pod = self.cloud.create(order)
        if (params := draw("create.delay", **context)) is not None:
            await asyncio.sleep(float(params["seconds"]))
        if (params := draw("create.error_after", **context)) is not None:
            raise build_error(params)
        if draw("create.drop_after", **context) is not None:
            raise Dropped
        return pod

    def _refuse_create(self, context: Mapping[str, Any]) -> None:
        draw = self.cloud.draw
        if draw("create.drop_before", **context) is not None:
            raise Dropped
        if (params := draw("create.error_before", **context)) is not None:
            raise build_error(params)
        if (params := draw("create.throttled", **context)) is not None:
            raise build_throttle(params)
        if draw("create.out_of_funds", **context) is not None:
            raise Refused(402, "insufficient balance")
        if draw("platform.spend_limit", **context) is not None:
            raise Refused(402, "this pod would exceed your spend limit")
        if draw("create.forbidden", **context) is not None:
            raise Refused(403, "your account cannot access the requested pool")
        if (params := draw("create.rejected", **context)) is not None:
            status = int(params["status"])
            errors = [f"$: {params['detail']}"] if status == 422 else None
            raise Refused(status, str(params["detail"]), errors=errors)
        for kind in ("null_pod", "null_data", "empty_errors"):
            if draw(f"create.{kind}", **context) is not None:
                raise OddBody(kind)

    async def list_pods(self, api: str) -> list[PodRow]:
        """Return the pods that a list shows."""
        draw = self.cloud.draw
        await self._misbehave("list", api=api)
        pods = self.cloud.list_visible()
        if draw("list.empty", api=api) is not None:
            return []
        if (params := draw("list.partial", api=api)) is not None:
            return pods[: int(len(pods) * float(params["keep"]))]
        return pods

    async def get(self, pod_id: str, api: str) -> tuple[PodRow | None, bool]:
        """Return a pod, and whether to show an old picture of it."""
        pod = self.cloud.find_pod(pod_id)
        context: dict[str, Any] = {"api": api, "pod_id": pod_id, "name": pod.name if pod else ""}
        await self._misbehave("get", **context)
        if self.cloud.draw("get.not_found", **context) is not None:
            return None, False
        if pod is not None and self.cloud.draw("get.stale", **context) is not None:
            return pod, True
        return self.cloud.find_visible(pod_id), False

    async def terminate(self, pod_id: str, caller: Caller, api: str) -> bool:
        """Give a pod back, or pretend to; return whether there was such a pod."""
        pod = self.cloud.find_visible(pod_id)
        context: dict[str, Any] = {"api": api, "pod_id": pod_id, "name": pod.name if pod else ""}
        draw = self.cloud.draw
        await self._misbehave("terminate", **context)
        is_forbidden = draw("platform.pod_key_may_not_terminate", **context) is not None
        if caller.pod is not None and is_forbidden:
            raise Refused(403, "this key may not terminate pods")
        if pod is None or draw("terminate.not_found_alive", **context) is not None:
            return False
        if draw("terminate.ignored", **context) is not None:
            return True
        if (params := draw("terminate.delayed", **context)) is not None:
            self.cloud.terminate_after(pod, float(params["seconds"]))
        elif (params := draw("terminate.reappears", **context)) is not None:
            self.cloud.hide(pod, float(params["seconds"]))
        else:
            self.cloud.terminate(pod)
        if draw("terminate.drop", **context) is not None:
            raise Dropped
        return True

    async def misbehave(self, operation: str, **context: Any) -> None:
        """Raise the error that a rule wants for this operation."""
        await self._misbehave(operation, **context)

    async def _misbehave(self, operation: str, **context: Any) -> None:
        if operation in ("list",) and (params := self.cloud.draw("list.delay", **context)):
            await asyncio.sleep(float(params["seconds"]))
        if (params := self.cloud.draw(f"{operation}.error", **context)) is not None:
            raise build_error(params)
        if (params := self.cloud.draw(f"{operation}.throttled", **context)) is not None:
            raise build_throttle(params)


def _describe(order: Order) -> Mapping[str, Any]:
    return {
        "name": order.name,
        "gpu": order.gpu or "",
        "cloud": order.clouds[0] if len(order.clouds) == 1 else "ALL",
        "data_center": order.data_centers[0] if order.data_centers else "",
        "api": order.api,
    }
