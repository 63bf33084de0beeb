from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import IO, Any

import pytest
from tests.unit.pod.conftest import make_grant

from touchstone_agent.adapters.transfer import GrantExpired
from touchstone_agent.pod.home import PodHome, write_json
from touchstone_agent.pod.upload import upload
from touchstone_agent.protocol.errors import ConfigurationError, TransientError
from touchstone_agent.protocol.pods import PodUpload, PodUploadReport


class FakeStore:
    """Stores by URL; an exception is raised, ``False`` says that it was there."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.stored: dict[str, bytes] = {}

    def put(self, grant: Any, file: IO[bytes], *, offset: int, size: int, **_: Any) -> bool:
        answer = self.answers.get(grant.url, True)
        if isinstance(answer, Exception):
            raise answer
        file.seek(offset)
        self.stored[grant.url] = file.read(size)
        return bool(answer)


@pytest.fixture
def ended_home(busy_home: PodHome) -> PodHome:
    """The home of a pod whose attempt has left the files a and b."""
    files = []
    for name in ("a", "b"):
        (busy_home.out / name).write_text(name)
        digest = hashlib.sha256(name.encode()).hexdigest()
        files.append({"path": name, "sha256": digest, "size": 1})
    write_json(busy_home.record_file, {"phase": "exited", "files": files})
    return busy_home


def put(home: PodHome, store: FakeStore, *paths: str) -> PodUploadReport:
    grants = {path: make_grant(path, "PUT") for path in paths}
    return upload(home, PodUpload(grants=grants), store)


def test_files_with_a_grant_are_stored(ended_home: PodHome) -> None:
    store = FakeStore()
    assert put(ended_home, store, "b") == PodUploadReport(uploaded=("b",))
    assert store.stored == {"b": b"b"}


def test_what_is_stored_already_counts_as_stored(ended_home: PodHome) -> None:
    assert put(ended_home, FakeStore(a=False), "a", "b").uploaded == ("a", "b")


def test_what_an_earlier_call_has_stored_is_not_sent_again(ended_home: PodHome) -> None:
    """Its caller may have lost the connection, and have no answer."""
    put(ended_home, FakeStore(b=TransientError("later")), "a", "b")
    store = FakeStore()
    assert put(ended_home, store, "a", "b").uploaded == ("a", "b")
    assert store.stored == {"b": b"b"}


def test_each_file_has_a_fate_of_its_own(ended_home: PodHome) -> None:
    store = FakeStore(a=GrantExpired("no"), b=TransientError("later"))
    report = put(ended_home, store, "a", "b", "c")
    assert report == PodUploadReport(expired=("a",), failed={"c": "is not in the verdict"})


def leave(kind: str, path: Path, secret: Path) -> None:
    path.unlink()
    if kind == "link":
        path.symlink_to(secret)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "other":
        path.write_text("x")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("link", "is not a plain file"),
        ("pipe", "is not a regular file"),
        ("folder", "is not a regular file"),
        ("other", "is not the file that the verdict lists"),
        ("gone", "is not there"),
    ],
)
def test_only_the_file_that_the_verdict_lists_is_stored(
    ended_home: PodHome, kind: str, reason: str, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a")
    leave(kind, ended_home.out / "a", secret)
    store = FakeStore()
    report = put(ended_home, store, "a")
    assert reason in report.failed["a"]
    assert store.stored == {}


def test_before_the_end_there_is_nothing_to_store(busy_home: PodHome) -> None:
    with pytest.raises(TransientError, match="not ended yet"):
        put(busy_home, FakeStore(), "a")


def test_without_an_attempt_there_never_is(home: PodHome) -> None:
    with pytest.raises(ConfigurationError, match="no attempt"):
        put(home, FakeStore(), "a")
