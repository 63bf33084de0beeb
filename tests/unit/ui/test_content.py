from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import tarfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fakes.stores import FakeObjectStore
from touchstone.settings import Settings
from touchstone.ui import archives, dependencies
from touchstone.ui.archives import UploadGate
from touchstone.ui.routes import content
from touchstone.ui.routes.content import get_gate

CONTENT = "/api/v1/content"
GZIP = {"Content-Type": "application/gzip"}


def make_archive(*members: tarfile.TarInfo, body: bytes = b"x = 1\n") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for member in members:
            if member.isreg():
                member.size = len(body)
            archive.addfile(member, io.BytesIO(body) if member.isreg() else None)
    return file.getvalue()


def make_member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


GOOD = make_archive(make_member("pkg", tarfile.DIRTYPE), make_member("pkg/module.py"))


def test_an_archive_is_kept_under_its_digest(
    engineer: TestClient, objects: FakeObjectStore, settings: Settings
) -> None:
    answer = engineer.post(CONTENT, content=GOOD, headers=GZIP)
    sha256 = hashlib.sha256(GOOD).hexdigest()
    assert answer.status_code == 201
    assert answer.json() == {"sha256": sha256, "size": len(GOOD), "source": f"upload:{sha256}"}
    assert objects.get(settings.content_bucket, f"content/{sha256}.tar.gz") == GOOD


def test_the_same_archive_may_be_uploaded_twice(engineer: TestClient) -> None:
    first = engineer.post(CONTENT, content=GOOD, headers=GZIP)
    second = engineer.post(CONTENT, content=GOOD, headers=GZIP)
    assert first.json() == second.json()


HOSTILE = {
    "absolute": make_archive(make_member("/etc/cron.d/x")),
    "upwards": make_archive(make_member("a/../../x")),
    "windows": make_archive(make_member("..\\x")),
    "symlink": make_archive(make_member("x", tarfile.SYMTYPE, "/etc/passwd")),
    "harmless symlink": make_archive(make_member("x", tarfile.SYMTYPE, "y")),
    "hard link": make_archive(make_member("x", tarfile.LNKTYPE, "y")),
    "device": make_archive(make_member("x", tarfile.CHRTYPE)),
    "pipe": make_archive(make_member("x", tarfile.FIFOTYPE)),
    "empty": make_archive(),
    "folders only": make_archive(make_member("pkg", tarfile.DIRTYPE)),
    "not packed": b"x = 1\n",
    "nothing": b"",
    "not a tar": gzip.compress(b"x = 1\n" * 1000),
    "cut off": GOOD[: len(GOOD) // 2],
    "checksum": GOOD[:-8] + b"\0\0\0\0" + GOOD[-4:],
    "zip": b"PK\x03\x04" + b"\0" * 100,
}


@pytest.mark.parametrize("archive", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_archive_is_refused_and_not_kept(
    engineer: TestClient, objects: FakeObjectStore, archive: bytes
) -> None:
    answer = engineer.post(CONTENT, content=archive, headers=GZIP)
    assert answer.status_code == 400
    assert answer.json()["field"] == "content"
    assert objects.objects == {}


def test_an_archive_that_states_its_size_too_large_is_refused_unread(
    engineer: TestClient, settings: Settings
) -> None:
    answer = engineer.post(
        CONTENT, content=b"x", headers=GZIP | {"Content-Length": str(settings.content_bytes + 1)}
    )
    assert answer.status_code == 413


def test_an_archive_that_does_not_state_its_size_is_cut_off_at_the_limit(
    engineer: TestClient, settings: Settings, objects: FakeObjectStore
) -> None:
    sent = 0

    def stream() -> Iterator[bytes]:
        nonlocal sent
        while sent <= settings.content_bytes:
            sent += 50_000
            yield b"\0" * 50_000

    answer = engineer.post(CONTENT, content=stream(), headers=GZIP)
    assert answer.status_code == 413
    assert objects.objects == {}


def test_an_archive_that_unpacks_to_far_more_is_refused(
    engineer: TestClient, settings: Settings
) -> None:
    bomb = make_archive(make_member("zeros"), body=bytes(4 * settings.content_bytes + 1))
    assert len(bomb) < 10_000
    answer = engineer.post(CONTENT, content=bomb, headers=GZIP)
    assert answer.status_code == 400
    assert "unpacks to more than" in answer.json()["detail"]


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/zip"])
def test_only_gzip_is_taken(engineer: TestClient, kind: str) -> None:
    answer = engineer.post(CONTENT, content=GOOD, headers={"Content-Type": kind})
    assert answer.status_code == 415


def test_a_viewer_may_not_upload(login: Callable[..., TestClient]) -> None:
    answer = login(role="viewer").post(CONTENT, content=GOOD, headers=GZIP)
    assert answer.status_code == 403


# --- many at once, and slow ones -----------------------------------------------------------------


def make_bomb(mib: int) -> bytes:
    """Return half a megabyte of which the last header leads back to the one before, for ever."""
    back = bytearray(make_member("back").tobuf(tarfile.GNU_FORMAT))
    back[124:136] = tarfile.itn(-(512 + 65536 + 512), 12, tarfile.GNU_FORMAT)
    back[148:156] = b" " * 8
    back[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(back))[0]
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=9) as packed:
        for name, size in (("start", mib * 1024**2), ("again", 65536)):
            member = make_member(name)
            member.size = size
            packed.write(member.tobuf(tarfile.USTAR_FORMAT) + bytes(size))
        packed.write(bytes(back) + bytes(10240))
    return file.getvalue()


async def test_of_45_bombs_sent_at_once_each_is_refused_and_meanwhile_the_api_answers(
    app: FastAPI,
    engineer: TestClient,
    objects: FakeObjectStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They took all threads of the server, each for hours: 'health' was never answered."""
    app.dependency_overrides[dependencies.read_settings] = lambda: Settings()
    answered, look_through = threading.Event(), content.check_archive

    def look_through_later(*arguments: Any, **more: Any) -> None:
        answered.wait()
        look_through(*arguments, **more)

    monkeypatch.setattr(content, "check_archive", look_through_later)
    bomb = make_bomb(50)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        uploads = [
            asyncio.create_task(client.post(CONTENT, content=bomb, headers=GZIP)) for _ in range(45)
        ]
        await asyncio.wait(uploads, return_when=asyncio.FIRST_COMPLETED)
        health = await client.get("/api/v1/health")
        answered.set()
        answers = await asyncio.gather(*uploads)

    assert health.status_code == 200
    assert sorted(answer.status_code for answer in answers) == [400] * 2 + [429] * 43
    assert {answer.json()["field"] for answer in answers} == {"content"}
    assert all(answer.json()["detail"].startswith("content: ") for answer in answers)
    assert objects.objects == {}


def test_an_archive_that_leads_back_is_refused_by_its_member(engineer: TestClient) -> None:
    answer = engineer.post(CONTENT, content=make_bomb(0), headers=GZIP)
    assert answer.status_code == 400
    assert answer.json()["detail"] == "content: 'back' claims to have -66560 bytes"


def test_others_may_upload_while_one_user_has_all_that_are_his(
    app: FastAPI, login: Callable[..., TestClient]
) -> None:
    gate = UploadGate(total=3, per_user=2)
    app.dependency_overrides[get_gate] = lambda: gate
    with gate.enter("engineer"), gate.enter("engineer"):
        refused = login("engineer").post(CONTENT, content=GOOD, headers=GZIP)
        taken = login("colleague").post(CONTENT, content=GOOD, headers=GZIP)
        with gate.enter("somebody"):
            full = login("colleague").post(CONTENT, content=GOOD, headers=GZIP)
    again = login("engineer").post(CONTENT, content=GOOD, headers=GZIP)

    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "2")
    assert "2 uploads of yours are under way" in refused.json()["detail"]
    assert taken.status_code == 201
    assert full.status_code == 429
    assert again.status_code == 201


def test_an_upload_that_is_refused_makes_room_for_the_next(
    app: FastAPI, engineer: TestClient
) -> None:
    gate = UploadGate(total=1, per_user=1)
    app.dependency_overrides[get_gate] = lambda: gate
    assert engineer.post(CONTENT, content=b"", headers=GZIP).status_code == 400
    assert engineer.post(CONTENT, content=GOOD, headers=GZIP).status_code == 201


async def test_an_upload_of_which_nothing_comes_is_ended_and_makes_room(
    app: FastAPI, engineer: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = UploadGate(total=1, per_user=1)
    app.dependency_overrides[get_gate] = lambda: gate
    monkeypatch.setattr(archives, "IDLE_SECONDS", 0.05)

    async def trickle() -> AsyncIterator[bytes]:
        yield GOOD[:10]
        await asyncio.Event().wait()

    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post(CONTENT, content=trickle(), headers=GZIP)
        after = await client.post(CONTENT, content=GOOD, headers=GZIP)

    assert answer.status_code == 408
    assert answer.json()["detail"] == "content: nothing was sent for 0.05 s"
    assert after.status_code == 201
