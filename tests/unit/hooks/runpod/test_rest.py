"""Of what RunPod's API answers no more is read than an answer can have, by either client."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from touchstone.core.pods import PodOrder
from touchstone.hooks.runpod import rest
from touchstone.hooks.runpod.api import Account
from touchstone.hooks.runpod.errors import Ambiguous, ServiceUnavailable
from touchstone.hooks.runpod.requests import MAX_BODY_BYTES, MAX_LOG_BYTES
from touchstone.hooks.runpod.rest import AsyncRestPodApi, RestPodApi

MIB = 1024**2
ACCOUNT = Account(api_key="k")
ORDER = PodOrder(name="n", image="i", gpu="L4")
MARK = "touchstone-pod host key: SHA256:x"


class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that is made while it is read; counts what was taken of it."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self.taken = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.taken += len(piece)
            yield piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


class Service:
    """Answers every request with one body."""

    def __init__(self, pieces: Iterator[bytes], **headers: str) -> None:
        self.body = Body(pieces)
        self._headers = headers
        self.asked: list[httpx.Request] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return httpx.Response(200, headers=self._headers, stream=self.body)


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ask a service by one of the two clients, without waiting between tries."""
    monkeypatch.setattr(rest, "LOG_SECONDS", 60.0)

    def ask(service: Service, name: str, *arguments: Any) -> Any:
        transport = httpx.MockTransport(service.answer)
        if request.param == "sync":
            with RestPodApi(ACCOUNT, transport=transport, sleep=lambda _: None) as api:
                return getattr(api, name)(*arguments)

        async def run() -> Any:
            async def sleep(_: float) -> None:
                pass

            async with AsyncRestPodApi(ACCOUNT, transport=transport, sleep=sleep) as api:
                return await getattr(api, name)(*arguments)

        return asyncio.run(run())

    return ask


class Memory:
    """What is in use at most from a moment on."""

    def begin(self) -> None:
        tracemalloc.start()

    @property
    def peak(self) -> int:
        return tracemalloc.get_traced_memory()[1]


@pytest.fixture
def memory() -> Iterator[Memory]:
    yield Memory()
    tracemalloc.stop()


def repeat(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


def test_a_good_answer_is_read_whole_and_wanted_as_it_is(ask: Any) -> None:
    text = json.dumps({"pods": []}).encode()
    service = Service(iter([text[:3], text[3:]]))

    assert ask(service, "list_pods") == []
    assert service.asked[0].headers["accept-encoding"] == "identity"


def test_an_answer_without_end_is_none(ask: Any) -> None:
    service = Service(repeat(b" " * MIB))

    with pytest.raises(ServiceUnavailable, match="more than"):
        ask(service, "list_pods")

    tries = len(service.asked)
    assert service.body.taken <= tries * (MAX_BODY_BYTES + MIB)


def test_an_order_whose_answer_has_no_end_may_have_made_a_pod(ask: Any) -> None:
    with pytest.raises(Ambiguous, match="may have happened"):
        ask(Service(repeat(b" " * MIB)), "create_pod", ORDER)


def test_an_answer_that_comes_drop_by_drop_is_given_up(
    ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(0, 10**6, 10))
    monkeypatch.setattr(rest.time, "monotonic", lambda: float(next(seconds)))

    with pytest.raises(ServiceUnavailable, match="has no end"):
        ask(Service(repeat(b" ")), "list_pods")


def test_what_is_compressed_is_not_read(ask: Any, memory: Memory) -> None:
    """A few bytes may be any size once they are read."""
    bomb = gzip.compress(b" " * 64 * MIB)
    service = Service(iter([bomb] * 3), **{"content-encoding": "gzip"})
    memory.begin()

    with pytest.raises(ServiceUnavailable, match="compressed"):
        ask(service, "list_pods")

    assert memory.peak < 32 * MIB


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b'{"pods": ' + b"[" * 50 + b"]" * 50 + b"}",
        b'{"pods": [{"id": "p", "name": "n", "status": "RUNNING", "cost": 1e999}]}',
        b'{"pods": [{"id": "p", "name": "n", "status": "RUNNING", "cost": 1e99}]}',
        b'{"pods": [{"id": "' + b"x" * 1000 + b'", "name": "n", "status": "RUNNING"}]}',
    ],
    ids=["deep", "deeper", "no number", "price", "id"],
)
def test_an_answer_beyond_a_bound_makes_no_sense(ask: Any, text: bytes) -> None:
    with pytest.raises(ServiceUnavailable, match="makes no sense"):
        ask(Service(repeat_once(text)), "list_pods")


def repeat_once(text: bytes) -> Iterator[bytes]:
    """The same text for each of the tries."""

    class Again:
        def __iter__(self) -> Iterator[bytes]:
            return iter([text])

    return Again()  # type: ignore[return-value]


def test_a_pod_without_a_zone_in_its_times_is_runpods_utc(ask: Any) -> None:
    pod = {"id": "p", "name": "n", "status": "RUNNING", "createdAt": "2026-11-22T10:00:00"}
    [found] = ask(Service(iter([json.dumps({"pods": [pod]}).encode()])), "list_pods")

    assert found.created_at.isoformat() == "2026-11-22T10:00:00+00:00"


def build_lines(count: int, text: str) -> Iterator[bytes]:
    for number in range(count):
        at = f"2026-11-22T10:{number // 60 % 60:02}:{number % 60:02}Z"
        event = {"source": "container", "line": f"{number} {text}", "ts": at}
        yield f"id: {number}\ndata: {json.dumps(event)}\n\n".encode()


def test_of_a_long_log_the_end_is_read(ask: Any) -> None:
    service = Service(build_lines(500, "x" * 10_000))

    lines = ask(service, "read_logs", "p1")

    assert sum(len(line.text) for line in lines) <= MAX_LOG_BYTES
    assert max(int(line.text.split()[0]) for line in lines) == 499


def test_a_line_without_end_does_not_fill_the_memory(ask: Any, memory: Memory) -> None:
    pieces = (b"x" * MIB for _ in range(64))
    memory.begin()

    lines = ask(Service(pieces), "read_logs", "p1")

    assert lines == []
    assert memory.peak < 16 * MIB


def test_the_host_key_of_a_quiet_pod_is_found(ask: Any) -> None:
    event = {"source": "container", "line": MARK, "ts": "2026-11-22T10:00:00"}
    odd = {"source": "container", "line": "x", "ts": "soon"}
    text = "".join(f"data: {json.dumps(each)}\n" for each in (odd, event)).encode()

    assert [line.text for line in ask(Service(iter([text])), "read_logs", "p1")] == [MARK]
