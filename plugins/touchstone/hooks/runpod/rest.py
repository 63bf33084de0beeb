"""REST v2 over httpx, for workers and for triggers."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from functools import cache
from importlib.metadata import version
from typing import Any

import httpx

from touchstone.core.pods import Balance, Bill, CpuOffer, GpuOffer, Pod, PodOrder
from touchstone.hooks.runpod import requests
from touchstone.hooks.runpod.api import Account, LogLine
from touchstone.hooks.runpod.requests import (
    Answer,
    ApiRequest,
    Broken,
    Conversation,
    Pause,
    PodList,
    Result,
)
from touchstone_agent.protocol.errors import ConfigurationError

LOG_QUIET_SECONDS = 1.5
"""A log that has been quiet for so long has sent its old lines."""
LOG_SECONDS = 4.0
"""A log that is never quiet is cut off here."""


def _build_options(account: Account) -> dict[str, Any]:
    return {
        "base_url": account.url,
        "timeout": account.timeout_seconds,
        "verify": _load_certificates(),
        "headers": {
            "Authorization": f"Bearer {account.api_key}",
            # Cloudflare, in front of the API, refuses the default agents of some libraries.
            "User-Agent": f"touchstone/{version('touchstone')}",
        },
    }


@cache
def _load_certificates() -> ssl.SSLContext:
    """Return the trusted certificates, loaded once: that takes longer than a request."""
    return httpx.create_ssl_context()


def _describe(request: ApiRequest) -> dict[str, Any]:
    return {
        "method": request.method,
        "url": request.path,
        "params": dict(request.params),
        "json": request.body,
    }


def _build_answer(response: httpx.Response) -> Answer:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(status=response.status_code, headers=headers, body=response.content)


def _build_broken(error: httpx.TransportError) -> Broken:
    is_sent = not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout))
    return Broken(reason=f"{type(error).__name__}: {error}", is_sent=is_sent)


class RestPodApi:
    """
    A RunPod account by REST v2, for workers. Close it, or use it as a context manager.

    :param account: Whose pods.
    :param transport: What carries the requests; ``None`` for the network.
    :param sleep: Makes pauses.
    """

    def __init__(
        self,
        account: Account,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = httpx.Client(**_build_options(account), transport=transport)
        self._sleep = sleep

    def __enter__(self) -> RestPodApi:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def list_pods(self) -> list[Pod]:
        """Return all pods of the account, from all pages."""
        return self.read_pods().pods

    def read_pods(self) -> PodList:
        """Return all pods and the number of requests that took."""
        return self._hold(requests.list_pods())

    def get_pod(self, pod_id: str) -> Pod:
        """Return a pod."""
        return self._hold(requests.get_pod(pod_id))

    def create_pod(self, order: PodOrder) -> Pod:
        """Rent a pod; never repeated."""
        return self._hold(requests.create_pod(order))

    def terminate_pod(self, pod_id: str) -> None:
        """Ask for a pod's end."""
        self._hold(requests.terminate_pod(pod_id))

    def list_offers(self) -> list[GpuOffer]:
        """Return the live catalogue."""
        return self._hold(requests.list_offers())

    def list_cpus(self) -> list[CpuOffer]:
        """Return the live catalogue of CPUs."""
        return self._hold(requests.list_cpus())

    def list_bills(self, pod_id: str | None = None) -> list[Bill]:
        """Return what pods of the last 30 days have cost, by RunPod's own count."""
        return self._hold(requests.list_bills(pod_id))

    def get_balance(self) -> Balance:
        """Raise: REST v2 has no route for it."""
        raise ConfigurationError("REST v2 does not tell the balance: ask the SDK's backend")

    def check_key(self) -> None:
        """Raise unless the key is good."""
        self._hold(requests.check_key())

    def read_logs(
        self, pod_id: str, *, source: str | None = None, tail: int = 200
    ) -> list[LogLine]:
        """Return the last lines of a pod's log."""
        request = requests.build_log_request(pod_id, source, tail)
        lines: list[str] = []
        deadline = time.monotonic() + LOG_SECONDS
        timeout = httpx.Timeout(10, read=LOG_QUIET_SECONDS)
        try:
            with self._client.stream(**_describe(request), timeout=timeout) as response:
                if response.status_code != 200:
                    response.read()
                    requests.check(request, _build_answer(response))
                for line in response.iter_lines():
                    lines.append(line)
                    if time.monotonic() > deadline:
                        break
        except httpx.TransportError as error:
            if not lines and not isinstance(error, httpx.ReadTimeout):
                requests.check(request, _build_broken(error))
        return requests.decode_log_lines(lines)

    def _hold(self, conversation: Conversation[Result]) -> Result:
        try:
            step = next(conversation)
            while True:
                if isinstance(step, Pause):
                    self._sleep(step.seconds)
                    step = conversation.send(None)
                else:
                    step = conversation.send(self._ask(step))
        except StopIteration as end:
            result: Result = end.value
            return result

    def _ask(self, request: ApiRequest) -> Answer | Broken:
        try:
            return _build_answer(self._client.request(**_describe(request)))
        except httpx.TransportError as error:
            return _build_broken(error)


class AsyncRestPodApi:
    """
    A RunPod account by REST v2, for triggers. Close it, or use it as a context manager.

    :param account: Whose pods.
    :param transport: What carries the requests; ``None`` for the network.
    :param sleep: Makes pauses.
    """

    def __init__(
        self,
        account: Account,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = httpx.AsyncClient(**_build_options(account), transport=transport)
        self._sleep = sleep

    async def __aenter__(self) -> AsyncRestPodApi:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def list_pods(self) -> list[Pod]:
        """Return all pods of the account, from all pages."""
        return (await self._hold(requests.list_pods())).pods

    async def get_pod(self, pod_id: str) -> Pod:
        """Return a pod."""
        return await self._hold(requests.get_pod(pod_id))

    async def create_pod(self, order: PodOrder) -> Pod:
        """Rent a pod; never repeated."""
        return await self._hold(requests.create_pod(order))

    async def terminate_pod(self, pod_id: str) -> None:
        """Ask for a pod's end."""
        await self._hold(requests.terminate_pod(pod_id))

    async def list_offers(self) -> list[GpuOffer]:
        """Return the live catalogue."""
        return await self._hold(requests.list_offers())

    async def list_cpus(self) -> list[CpuOffer]:
        """Return the live catalogue of CPUs."""
        return await self._hold(requests.list_cpus())

    async def list_bills(self, pod_id: str | None = None) -> list[Bill]:
        """Return what pods of the last 30 days have cost, by RunPod's own count."""
        return await self._hold(requests.list_bills(pod_id))

    async def read_logs(
        self, pod_id: str, *, source: str | None = None, tail: int = 200
    ) -> list[LogLine]:
        """Return the last lines of a pod's log."""
        request = requests.build_log_request(pod_id, source, tail)
        lines: list[str] = []
        timeout = httpx.Timeout(10, read=LOG_QUIET_SECONDS)
        try:
            async with (
                asyncio.timeout(LOG_SECONDS),
                self._client.stream(**_describe(request), timeout=timeout) as response,
            ):
                if response.status_code != 200:
                    await response.aread()
                    requests.check(request, _build_answer(response))
                async for line in response.aiter_lines():
                    lines.append(line)
        except TimeoutError:
            pass
        except httpx.TransportError as error:
            if not lines and not isinstance(error, httpx.ReadTimeout):
                requests.check(request, _build_broken(error))
        return requests.decode_log_lines(lines)

    async def _hold(self, conversation: Conversation[Result]) -> Result:
        try:
            step = next(conversation)
            while True:
                if isinstance(step, Pause):
                    await self._sleep(step.seconds)
                    step = conversation.send(None)
                else:
                    step = conversation.send(await self._ask(step))
        except StopIteration as end:
            result: Result = end.value
            return result

    async def _ask(self, request: ApiRequest) -> Answer | Broken:
        try:
            return _build_answer(await self._client.request(**_describe(request)))
        except httpx.TransportError as error:
            return _build_broken(error)
