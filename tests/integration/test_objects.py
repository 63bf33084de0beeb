"""Objects over real connections: bounded reads, files block by block, copies within the store."""

from __future__ import annotations

import hashlib
import secrets
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.renting import Clients
from fakes.stores import FakeObjectStore
from touchstone.stores.objects import ObjectCorrupt, ObjectNotFound, ObjectStore, ObjectTooLarge

pytestmark = pytest.mark.integration

MIB = 1024**2
BODY = bytes(range(256)) * 12 * 1024
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(params=["real", "fake"])
def objects(request: pytest.FixtureRequest) -> ObjectStore:
    """The store, and its stand-in of the unit tests."""
    if request.param == "fake":
        return FakeObjectStore()
    return ObjectStore(Clients.connect(request.getfixturevalue("ministack")).s3)


@pytest.fixture
def bucket(objects: ObjectStore) -> Iterator[str]:
    name = f"test-{secrets.token_hex(6)}"
    if not isinstance(objects, FakeObjectStore):
        objects._client.create_bucket(Bucket=name)
    objects.put_new(name, "made", BODY)
    return name


def test_no_more_is_read_than_a_reader_takes(objects: ObjectStore, bucket: str) -> None:
    assert objects.get(bucket, "made", max_bytes=len(BODY)) == BODY
    with pytest.raises(ObjectTooLarge, match="more than 1000 bytes"):
        objects.get(bucket, "made", max_bytes=1000)
    with pytest.raises(ObjectNotFound):
        objects.get(bucket, "other")


def test_a_file_appears_when_it_is_right(objects: ObjectStore, bucket: str, tmp_path: Path) -> None:
    target = tmp_path / "model"
    objects.fetch(bucket, "made", target, sha256=DIGEST, size=len(BODY))
    assert target.read_bytes() == BODY


@pytest.mark.parametrize(
    ("key", "size", "sha256", "kind"),
    [
        ("made", len(BODY) - 1, DIGEST, ObjectTooLarge),
        ("made", len(BODY) + 1, DIGEST, ObjectCorrupt),
        ("made", len(BODY), "0" * 64, ObjectCorrupt),
        ("other", len(BODY), DIGEST, ObjectNotFound),
    ],
    ids=["longer", "shorter", "other bytes", "not there"],
)
def test_a_file_that_is_wrong_never_appears(
    objects: ObjectStore,
    bucket: str,
    tmp_path: Path,
    key: str,
    size: int,
    sha256: str,
    kind: type[Exception],
) -> None:
    with pytest.raises(kind):
        objects.fetch(bucket, key, tmp_path / "model", sha256=sha256, size=size)
    assert list(tmp_path.iterdir()) == []


def test_a_copy_is_made_once_and_overwrites_nothing(objects: ObjectStore, bucket: str) -> None:
    assert objects.copy_new(bucket, "copy", source_bucket=bucket, source_key="made")
    objects.put_new(bucket, "else", b"else")
    assert not objects.copy_new(bucket, "copy", source_bucket=bucket, source_key="else")
    assert objects.get(bucket, "copy") == BODY
    with pytest.raises(ObjectNotFound):
        objects.copy_new(bucket, "third", source_bucket=bucket, source_key="other")


def test_a_large_file_passes_through_a_few_blocks(ministack: str, tmp_path: Path) -> None:
    """Two models of up to 1 GiB each were in the worker's memory as a whole, twice."""
    objects = ObjectStore(Clients.connect(ministack).s3)
    name = f"test-{secrets.token_hex(6)}"
    objects._client.create_bucket(Bucket=name)
    body = secrets.token_bytes(MIB) * 48
    objects.put_new(name, "large", body)
    digest, size = hashlib.sha256(body).hexdigest(), len(body)
    del body

    tracemalloc.start()
    objects.fetch(name, "large", tmp_path / "large", sha256=digest, size=size)
    objects.copy_new(name, "copy", source_bucket=name, source_key="large")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 16 * MIB
    assert objects.get_size(name, "copy") == size
