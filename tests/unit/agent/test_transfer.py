"""What becomes of the store's answers."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import pytest
import urllib3

from fakes.agent_world import make_grant
from fakes.waits import are_jittered
from touchstone_agent.adapters.transfer import GrantExpired, Transfer, TransferCancelled
from touchstone_agent.protocol.errors import PermanentError, TransientError

DATA = b"the right bytes"
SHA = hashlib.sha256(DATA).hexdigest()
SECRET = "http://store/key?X-Amz-Signature=sesame"


class FakePool:
    """Answers in turn; an exception is raised."""

    def __init__(self, *answers: tuple[int, bytes] | Exception) -> None:
        self._answers = list(answers)
        self.requests: list[tuple[str, str, dict[str, str], bytes | None]] = []

    def request(self, method: str, url: str, *, body: Any, headers: Any, **_: Any) -> Any:
        self.requests.append((method, url, dict(headers), body.read() if body else None))
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        status, data = answer
        return urllib3.HTTPResponse(io.BytesIO(data), status=status, preload_content=False)


@pytest.fixture
def make_transfer(monkeypatch: pytest.MonkeyPatch):
    def make(*answers: tuple[int, bytes] | Exception) -> tuple[Transfer, FakePool, list[float]]:
        slept: list[float] = []
        pool = FakePool(*answers)
        transfer = Transfer(sleep=slept.append, tries=3)
        monkeypatch.setattr(transfer, "_find_pool", lambda _: pool)
        return transfer, pool, slept

    return make


def fetch(transfer: Transfer, folder: Path, cancelled: bool = False) -> Path:
    target = folder / "file"
    grant = make_grant(SECRET, method="GET")
    transfer.fetch(grant, target, sha256=SHA, size=len(DATA), is_cancelled=lambda: cancelled)
    return target


def put(transfer: Transfer, **headers: str) -> bool:
    return transfer.put(
        make_grant(SECRET, headers=headers),
        io.BytesIO(b"head" + DATA),
        offset=4,
        size=len(DATA),
        is_cancelled=lambda: False,
    )


def test_what_was_promised_is_kept(make_transfer, tmp_path: Path) -> None:
    transfer, _, slept = make_transfer((200, DATA))

    assert fetch(transfer, tmp_path).read_bytes() == DATA
    assert slept == []


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        ((500, b""), "a store that stumbles"),
        ((503, b""), "a store that asks for patience"),
        ((404, b""), "an object that is not visible yet"),
        ((200, DATA[:-1]), "a connection that ended early"),
        (urllib3.exceptions.ProtocolError("x"), "a connection that broke"),
        (urllib3.exceptions.ReadTimeoutError(None, "u", "x"), "a store that fell asleep"),
        (ConnectionResetError(), "a connection that was reset"),
    ],
)
def test_what_may_pass_is_tried_again(problem, reason: str, make_transfer, tmp_path: Path) -> None:
    transfer, _, slept = make_transfer(problem, (200, DATA))

    assert fetch(transfer, tmp_path).read_bytes() == DATA, reason
    assert are_jittered(slept, [0.5])


def test_what_does_not_pass_is_left_to_the_caller(make_transfer, tmp_path: Path) -> None:
    transfer, _, slept = make_transfer((500, b""), (500, b""), (500, b""))

    with pytest.raises(TransientError, match="3 times: HTTP 500"):
        fetch(transfer, tmp_path)
    assert are_jittered(slept, [0.5, 1.0])


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_refused_grant_is_not_tried_again(status: int, make_transfer, tmp_path: Path) -> None:
    transfer, pool, _ = make_transfer((status, b"expired"))

    with pytest.raises(GrantExpired):
        fetch(transfer, tmp_path)
    assert len(pool.requests) == 1


@pytest.mark.parametrize("data", [b"the WRONG bytes", DATA + b"more"])
def test_other_bytes_than_promised_are_never_left_behind(
    data: bytes, make_transfer, tmp_path: Path
) -> None:
    transfer, _, _ = make_transfer((200, data))

    with pytest.raises(PermanentError):
        fetch(transfer, tmp_path)
    assert not (tmp_path / "file").exists()


def test_a_cancelled_fetch_stops(make_transfer, tmp_path: Path) -> None:
    transfer, pool, _ = make_transfer((200, DATA))

    with pytest.raises(TransferCancelled):
        fetch(transfer, tmp_path, cancelled=True)
    assert pool.requests == []


def test_a_part_of_a_file_is_sent_with_exactly_the_granted_headers(make_transfer) -> None:
    transfer, pool, _ = make_transfer((200, b""))
    granted = {"If-None-Match": "*", "x-amz-checksum-sha256": "abc", "content-length": "15"}

    assert put(transfer, **granted) is True

    assert pool.requests == [("PUT", SECRET, granted, DATA)]


def test_the_length_is_added_when_it_was_not_granted(make_transfer) -> None:
    transfer, pool, _ = make_transfer((200, b""))

    put(transfer)

    assert pool.requests[0][2] == {"Content-Length": "15"}


def test_an_object_that_is_there_already_is_success(make_transfer) -> None:
    transfer, _, _ = make_transfer((412, b"PreconditionFailed"))

    assert put(transfer) is False


def test_another_try_sends_the_whole_part_again(make_transfer) -> None:
    transfer, pool, _ = make_transfer((500, b""), (200, b""))

    put(transfer)

    assert [request[3] for request in pool.requests] == [DATA, DATA]


def test_no_error_tells_the_url(make_transfer, tmp_path: Path) -> None:
    error = urllib3.exceptions.MaxRetryError(None, SECRET, None)  # its text carries the URL
    assert "sesame" in str(error)
    transfer, _, _ = make_transfer(error, error, error)

    with pytest.raises(TransientError) as caught:
        fetch(transfer, tmp_path)

    assert "sesame" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_proxy_variables_are_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "inside")
    transfer = Transfer()

    outside, inside = transfer._find_pool("http://outside/x"), transfer._find_pool("http://inside/")

    assert isinstance(outside, urllib3.ProxyManager)
    assert not isinstance(inside, urllib3.ProxyManager)


class Endless(io.RawIOBase):
    """A body without end; counts what was read of it."""

    taken = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        assert 0 <= size <= 1024**2, "nobody may read all of it"
        self.taken += size
        return b"x" * size


def test_of_what_a_store_says_to_an_upload_only_the_beginning_is_read(make_transfer) -> None:
    body = Endless()
    response = urllib3.HTTPResponse(body, status=200, preload_content=False)
    transfer, pool, _ = make_transfer((200, b""))
    pool.request = lambda *_, **__: response

    assert put(transfer)
    assert body.taken <= 128 * 1024
    assert response.closed
