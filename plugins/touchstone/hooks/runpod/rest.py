"""REST v2 over httpx, for workers and for triggers."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import cache
from importlib.metadata import version
from typing import Any

import httpx

from touchstone.core.offers import CpuOffer, GpuOffer
from touchstone.core.pods import Balance, Bill, Pod, PodOrder
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
            # What is compressed may be any size once it is read.
            "Accept-Encoding": "identity",
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


class _Body:
    """
    What comes of an answer, as far as it is read.

    :param response: The answer, whose body is still to come.
    :param seconds: How long all of it may take.
    """

    def __init__(self, response: httpx.Response, seconds: float) -> None:
        self._response = response
        self._deadline = time.monotonic() + seconds
        self._pieces: list[bytes] = []
        self._left = requests.MAX_BODY_BYTES
        self._problem: str | None = None
        if response.headers.get("content-encoding", "identity") != "identity":
            self._problem = "its answer is compressed, which nobody asked for"

    @property
    def is_wanted(self) -> bool:
        """Return whether anything more is wanted."""
        return self._problem is None

    def take(self, piece: bytes) -> None:
        """Take a piece."""
        self._pieces.append(piece)
        self._left -= len(piece)
        if self._left < 0:
            self._problem = f"its answer has more than {requests.MAX_BODY_BYTES} bytes"
        elif time.monotonic() > self._deadline:
            self._problem = "its answer has no end"

    def build(self) -> Answer | Broken:
        """Return the answer, if it has come to an end."""
        if self._problem is not None:
            return Broken(reason=self._problem, is_sent=True)
        headers = {name.lower(): value for name, value in self._response.headers.items()}
        status = self._response.status_code
        return Answer(status=status, headers=headers, body=b"".join(self._pieces))


class _Log:
    """The end of a log, however much of it comes."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0

    def take(self, piece: bytes) -> None:
        """Take a piece, and drop what is too far back for it."""
        self._pieces.append(piece[-requests.MAX_LOG_BYTES :])
        self._size += len(self._pieces[-1])
        while self._size - len(self._pieces[0]) >= requests.MAX_LOG_BYTES:
            self._size -= len(self._pieces.popleft())

    @property
    def lines(self) -> list[str]:
        """Return what has come, the first line perhaps in part."""
        return b"".join(self._pieces).decode(errors="replace").splitlines()


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
        self._seconds = 2 * account.timeout_seconds
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
        log = _Log()
        deadline = time.monotonic() + LOG_SECONDS
        timeout = httpx.Timeout(10, read=LOG_QUIET_SECONDS)
        try:
            with self._client.stream(**_describe(request), timeout=timeout) as response:
                if response.status_code != 200:
                    requests.check(request, self._read(response))
                for piece in response.iter_bytes():
                    log.take(piece)
                    if time.monotonic() > deadline:
                        break
        except httpx.TransportError as error:
            if not log.lines and not isinstance(error, httpx.ReadTimeout):
                requests.check(request, _build_broken(error))
        return requests.decode_log_lines(log.lines)

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
            with self._client.stream(**_describe(request)) as response:
                return self._read(response)
        except httpx.TransportError as error:
            return _build_broken(error)

    def _read(self, response: httpx.Response) -> Answer | Broken:
        body = _Body(response, self._seconds)
        pieces = response.iter_bytes()
        # Asked before each piece: the first one would be as large as it was packed.
        while body.is_wanted and (piece := next(pieces, None)) is not None:
            body.take(piece)
        return body.build()


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
        self._seconds = 2 * account.timeout_seconds
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

    async def list_registries(self) -> list[tuple[str, str]]:
        """Return id and name of each login of a registry that the account has."""
        return await self._hold(requests.list_registries())

    async def create_registry(self, name: str, login: str, password: str) -> str:
        """Leave a login there, and return its id; never repeated."""
        return await self._hold(requests.create_registry(name, login, password))

    async def delete_registry(self, registry_id: str) -> None:
        """Remove a login; gone already is success."""
        await self._hold(requests.delete_registry(registry_id))

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
        log = _Log()
        timeout = httpx.Timeout(10, read=LOG_QUIET_SECONDS)
        try:
            async with (
                asyncio.timeout(LOG_SECONDS),
                self._client.stream(**_describe(request), timeout=timeout) as response,
            ):
                if response.status_code != 200:
                    requests.check(request, await self._read(response))
                async for piece in response.aiter_bytes():
                    log.take(piece)
        except TimeoutError:
            pass
        except httpx.TransportError as error:
            if not log.lines and not isinstance(error, httpx.ReadTimeout):
                requests.check(request, _build_broken(error))
        return requests.decode_log_lines(log.lines)

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
            async with self._client.stream(**_describe(request)) as response:
                return await self._read(response)
        except httpx.TransportError as error:
            return _build_broken(error)

    async def _read(self, response: httpx.Response) -> Answer | Broken:
        body = _Body(response, self._seconds)
        pieces = response.aiter_bytes()
        while body.is_wanted and (piece := await anext(pieces, None)) is not None:
            body.take(piece)
        return body.build()
