from __future__ import annotations

import inspect
import re

import pytest

from fakes.stores import FakeObjectStore, FakeRecordStore
from touchstone.hooks.objects import ObjectCorrupt, ObjectNotFound, ObjectStore
from touchstone.hooks.records import RecordExists, RecordNotFound, RecordStore

METHODS = [
    name
    for name, member in vars(ObjectStore).items()
    if inspect.isfunction(member)
    and not name.startswith("_")
    and re.search(r"self\._(client|open)\b", inspect.getsource(member))
]


@pytest.mark.parametrize("name", METHODS)
def test_the_fake_object_store_has_every_method_that_uses_the_client_as_the_real_one(
    name: str,
) -> None:
    assert name in vars(FakeObjectStore)
    fake, real = getattr(FakeObjectStore, name), getattr(ObjectStore, name)
    assert inspect.signature(fake) == inspect.signature(real)


def test_no_public_method_of_the_fake_record_store_reaches_for_a_client() -> None:
    """Methods that use the client themselves must be replaced; the others share the real code."""
    for name, member in vars(RecordStore).items():
        is_public = inspect.isfunction(member) and not name.startswith("_")
        if is_public and "self._client" in inspect.getsource(member):
            assert name in vars(FakeRecordStore), name


def test_records_come_back_as_plain_numbers_and_copies() -> None:
    records = FakeRecordStore()
    records.create_submission({"submission_id": "s-1", "score": 0.1, "run_ids": ["s-1"]})
    records.get_submission("s-1")["run_ids"].append("x")
    assert records.get_submission("s-1")["run_ids"] == ["s-1"]
    assert records.get_submission("s-1")["score"] == 0.1


def test_a_record_is_created_once_and_changed_with_its_version() -> None:
    records = FakeRecordStore()
    records.create_submission({"submission_id": "s-1"})
    with pytest.raises(RecordExists):
        records.create_submission({"submission_id": "s-1"})
    assert records.change_submission("s-1", lambda found: {"status": "x"})["version"] == 2
    assert records.change_submission("s-1", lambda found: None)["version"] == 2
    with pytest.raises(RecordNotFound):
        records.change_submission("s-2", lambda found: {"status": "x"})


def test_an_older_attempt_does_not_overwrite_a_newer_ones_evaluation() -> None:
    records = FakeRecordStore()
    row = {"model_id": "m", "model_group_id": "g", "fence": 2}
    assert records.put_evaluation(row)
    assert not records.put_evaluation(row | {"fence": 1})
    assert records.list_evaluations("g") == [row]


def test_an_object_is_written_once_and_checked_when_read() -> None:
    objects = FakeObjectStore()
    assert objects.put_new("b", "k", b"one")
    assert not objects.put_new("b", "k", b"two")
    assert objects.get("b", "k") == b"one"
    with pytest.raises(ObjectCorrupt):
        objects.get("b", "k", sha256="0" * 64)
    with pytest.raises(ObjectNotFound):
        objects.get("b", "other")
