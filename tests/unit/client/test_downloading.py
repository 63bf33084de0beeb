"""Files are fetched whole, with the right digest, once; from a store that may break off."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from touchstone.client.access import Access
from touchstone.client.api import Client
from touchstone.client.downloading import Fetched, download
from touchstone.client.errors import NotFound, Unreachable
from touchstone_agent.protocol.errors import ConfigurationError
from touchstone_agent.protocol.words import UnsafePath

STORE = "http://store.test/"
BODIES = {"models/long.h5": b"long", "models/short.h5": b"short!", "result.json": b"{}"}


class World:
    """Touchstone's API and an object store, by one transport."""

    def __init__(self) -> None:
        self.bodies = dict(BODIES)
        self.paths = {name: name for name in BODIES}
        self.note: str | None = None
        self.asked: list[str] = []
        self.tokens: list[str | None] = []
        self.answers: dict[str, Callable[[], httpx.Response]] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.host != "store.test":
            return httpx.Response(200, json=self.list_files())
        name = request.url.path.removeprefix("/")
        self.asked.append(name)
        self.tokens.append(request.headers.get("Authorization"))
        answer = self.answers.pop(name, None)
        return answer() if answer else httpx.Response(200, content=self.bodies[name])

    def list_files(self) -> dict[str, Any]:
        files = [
            {
                "path": path,
                "size": len(BODIES[name]),
                "sha256": hashlib.sha256(BODIES[name]).hexdigest(),
                "url": f"{STORE}{name}",
                "expires_at": "2026-03-01T13:00:00+00:00",
            }
            for path, name in self.paths.items()
        ]
        return {"submission_id": "s-1", "task_id": "i5", "files": files, "note": self.note}


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def fetch(world: World, tmp_path: Path) -> Callable[..., list[Fetched]]:
    def run(**options: Any) -> list[Fetched]:
        access = Access(url="http://touchstone.test", user="engineer", token="abc")
        with Client(access, transport=httpx.MockTransport(world)) as client:
            return download(client, "s-1", "i5", tmp_path / "to", **options)

    return run


def test_files_are_fetched_once_and_without_our_token(fetch, world, tmp_path) -> None:
    told: list[Fetched] = []

    first, again = fetch(tell=told.append), fetch()

    assert [each.path for each in told] == list(BODIES)
    for name, body in BODIES.items():
        assert (tmp_path / "to" / name).read_bytes() == body
    assert [each.is_new for each in first + again] == [True] * 3 + [False] * 3
    assert world.asked == list(BODIES)
    assert set(world.tokens) == {None}


def test_only_what_is_wanted_is_fetched(fetch, world) -> None:
    assert [each.path for each in fetch(only=["models/*"])] == list(BODIES)[:2]
    with pytest.raises(ConfigurationError, match=r"only: no file matches; there are models/lo"):
        fetch(only=["x*"])


def break_off() -> httpx.Response:
    raise httpx.ReadError("reset")


@pytest.mark.parametrize(
    "answer",
    [
        break_off,
        lambda: httpx.Response(403, text="expired"),
        lambda: httpx.Response(200, content=b"lon"),
        lambda: httpx.Response(200, content=b"gnol"),
        lambda: httpx.Response(200, content=b"long" * 9999),
    ],
)
def test_what_is_not_the_file_leaves_nothing_and_is_gone_on_with(
    fetch, world, tmp_path, answer
) -> None:
    world.answers["models/short.h5"] = answer
    with pytest.raises(Unreachable, match="try again"):
        fetch()
    assert [each.name for each in (tmp_path / "to/models").iterdir()] == ["long.h5"]

    world.asked.clear()
    assert len(fetch()) == 3
    assert world.asked == ["models/short.h5", "result.json"]


def test_what_was_changed_here_is_fetched_again(fetch, tmp_path) -> None:
    fetch()
    (tmp_path / "to/result.json").write_text("mine")
    assert [each.path for each in fetch() if each.is_new] == ["result.json"]


@pytest.mark.parametrize("path", ["../up", "/etc/x", "a//b", "a/../../b", "a\\b", "a\nb"])
def test_no_path_leads_out_of_the_folder(fetch, world, tmp_path, path) -> None:
    world.paths = {path: "result.json"}
    with pytest.raises(UnsafePath):
        fetch()
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == []


def test_why_there_are_none_is_told(fetch, world) -> None:
    world.paths, world.note = {}, "it has published nothing yet"
    with pytest.raises(NotFound, match="s-1/i5 has no files: it has published nothing yet"):
        fetch()


def test_a_folder_that_cannot_be_written_is_named(fetch, tmp_path) -> None:
    (tmp_path / "to").write_text("a file")
    with pytest.raises(ConfigurationError, match=r"to: .* cannot be written"):
        fetch()
