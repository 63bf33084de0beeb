from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator

import pytest
from fastapi.testclient import TestClient

from fakes.stores import FakeObjectStore
from touchstone.settings import Settings
from touchstone.ui import archives

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
    engineer: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_UNPACKED_BYTES", 2_000_000)
    bomb = make_archive(make_member("zeros"), body=b"\0" * 4_000_000)
    assert len(bomb) < 10_000
    answer = engineer.post(CONTENT, content=bomb, headers=GZIP)
    assert answer.status_code == 400
    assert "unpacks to more than" in answer.json()["detail"]


def test_an_archive_whose_header_would_fill_the_memory_is_refused(engineer: TestClient) -> None:
    member = make_member("x")
    member.pax_headers = {"comment": "\0" * 8_000_000}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(b""))
    answer = engineer.post(CONTENT, content=file.getvalue(), headers=GZIP)
    assert answer.status_code == 400
    assert "too long" in answer.json()["detail"]


def test_an_archive_of_very_many_members_is_refused(
    engineer: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    archive = make_archive(*(make_member(f"f{number}") for number in range(4)))
    answer = engineer.post(CONTENT, content=archive, headers=GZIP)
    assert answer.status_code == 400


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/zip"])
def test_only_gzip_is_taken(engineer: TestClient, kind: str) -> None:
    answer = engineer.post(CONTENT, content=GOOD, headers={"Content-Type": kind})
    assert answer.status_code == 415


def test_a_viewer_may_not_upload(login: Callable[..., TestClient]) -> None:
    answer = login(role="viewer").post(CONTENT, content=GOOD, headers=GZIP)
    assert answer.status_code == 403
