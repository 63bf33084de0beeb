from __future__ import annotations

import inspect
import re
from datetime import UTC, datetime

import pytest

from fakes.stores import FakeObjectStore, FakeRecordStore
from fakes.submissions import build_submission
from fakes.tasks import build_task, read_stored
from touchstone.core.records.evaluations import Evaluation
from touchstone.stores.objects import ObjectCorrupt, ObjectNotFound, ObjectStore
from touchstone.stores.records import RecordStore
from touchstone.stores.tables import RecordExists, RecordNotFound

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
    records.create_task(build_task(score=0.1, runs=["s-1"]))
    read_stored(records, "s-1", "i5")["runs"].append("x")
    assert read_stored(records, "s-1", "i5")["runs"] == ["s-1"]
    assert read_stored(records, "s-1", "i5")["score"] == 0.1


def test_a_record_is_created_once_and_changed_with_its_version() -> None:
    records = FakeRecordStore()
    records.create_submission(build_submission())
    with pytest.raises(RecordExists):
        records.create_submission(build_submission())
    changed = records.change_submission("s-1", lambda found: found.change(status="running"))
    assert changed.version == 2
    assert records.change_submission("s-1", lambda found: None).version == 2
    with pytest.raises(RecordNotFound):
        records.change_submission("s-2", lambda found: found.change(status="running"))


def test_an_older_attempt_does_not_overwrite_a_newer_ones_evaluation() -> None:
    records = FakeRecordStore()
    row = Evaluation(
        model_id="m",
        model_group_id="g",
        submission_id="s-1",
        task_id="i5",
        attempt=1,
        fence=2,
        strategy="long",
        metrics={"net_sharpe": 0.5},
        model_key="k",
        model_sha256="d",
        may_carry_code=False,
        created_at=datetime(2026, 11, 22, tzinfo=UTC),
    )
    assert records.put_evaluation(row)
    assert not records.put_evaluation(row.change(fence=1))
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
