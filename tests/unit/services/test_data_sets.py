"""Data sets on record: added once, found again, and unpacked for the judge."""

from __future__ import annotations

import threading
from datetime import date, timedelta

import pytest

from fakes.data_sets import BODY, NOW, add, pack, send
from fakes.stores import FakeObjectStore, FakeRecordStore
from touchstone.core.data_sets import PinnedData
from touchstone.core.names import build_data_key
from touchstone.services import data_sets
from touchstone.services.data_sets import DataKeeper, DataUnusable, fetch_data
from touchstone.settings import Settings
from touchstone.stores.data_sets import DataStore, UnknownData
from touchstone_agent.protocol.errors import ConfigurationError, TransientError


@pytest.fixture
def settings(tmp_path):
    return Settings(data_bytes=100_000, data_cache=tmp_path / "cache")


@pytest.fixture
def records(settings):
    return FakeRecordStore(settings)


@pytest.fixture
def objects():
    return FakeObjectStore()


@pytest.fixture
def keeper(records, objects, settings):
    return DataKeeper.build(records, objects, settings, lambda: NOW)


def pin(record, **changes):
    facts = {
        "name": record.name,
        "version": record.definition.version,
        "digest": record.digest,
        "sha256": record.sha256,
        "size": record.size,
        "validation_from": date(2017, 10, 1),
        "test_from": date(2017, 12, 1),
        "bars_per_year": 6240,
    }
    return PinnedData(**(facts | changes))


# --- adding --------------------------------------------------------------------------------------


def test_the_same_content_again_changes_nothing(keeper, objects, settings, tmp_path):
    archive = pack(tmp_path / "set")

    first, again = send(keeper, archive), send(keeper, archive, by="other")

    assert (first.is_changed, again.is_changed) == (True, False)
    assert again.record == first.record
    assert first.record.added_by == "admin"
    key = build_data_key(first.record.sha256)
    assert objects.get(settings.content_bucket, key) == archive
    assert len(objects.objects) == 1


def test_another_content_under_a_taken_version_is_refused_and_names_the_first(
    keeper, objects, tmp_path
):
    first = send(keeper, pack(tmp_path / "set")).record
    other = pack(tmp_path / "set", body=BODY + b"2018-01-01T00:00:00Z,1.2\n")

    with pytest.raises(ConfigurationError) as caught:
        send(keeper, other)

    assert str(caught.value).startswith("version: eurusd-hourly 2018-02 is there already")
    assert first.digest in str(caught.value)
    assert "added by admin at 2026-12-01 12:00 UTC" in str(caught.value)
    assert len(objects.objects) == 1
    assert keeper.store.list_data_sets().records == (first,)


def test_another_description_of_the_same_file_is_another_content(keeper, tmp_path):
    send(keeper, pack(tmp_path / "set"))

    with pytest.raises(ConfigurationError, match="is there already"):
        send(keeper, pack(tmp_path / "set", title='"Other"'))
    assert send(keeper, pack(tmp_path / "set", version="2")).is_changed


def test_who_dies_before_the_archive_is_stored_leaves_what_the_next_one_completes(
    keeper, objects, tmp_path, monkeypatch
):
    archive = pack(tmp_path / "set")
    put_new = objects.put_new

    def fail(*arguments, **options):
        raise TransientError("the store is away")

    monkeypatch.setattr(objects, "put_new", fail)
    with pytest.raises(TransientError):
        send(keeper, archive)
    left = keeper.store.get_data_set("eurusd-hourly", "2018-02")
    assert (left.is_complete, objects.objects) == (False, {})

    monkeypatch.setattr(objects, "put_new", put_new)
    done = send(keeper, archive)

    assert done.is_changed
    assert done.record.is_complete
    assert done.record.digest == left.digest
    assert len(objects.objects) == 1


def test_an_archive_that_was_lost_is_there_again_when_it_is_added_again(
    keeper, objects, settings, tmp_path
):
    archive = pack(tmp_path / "set")
    first = send(keeper, archive).record
    objects.objects.clear()

    again = send(keeper, archive)

    assert again.is_changed
    assert again.record == first
    assert objects.get(settings.content_bucket, build_data_key(first.sha256)) == archive


def test_what_was_never_stored_may_be_packed_by_another_library(
    keeper, objects, settings, tmp_path, monkeypatch
):
    archive = pack(tmp_path / "set")
    put_new = objects.put_new
    monkeypatch.setattr(objects, "put_new", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        send(keeper, archive)
    monkeypatch.setattr(objects, "put_new", put_new)
    monkeypatch.setattr("touchstone.client.packing._LEVEL", 1)
    other = pack(tmp_path / "set")
    assert other != archive

    record = send(keeper, other).record

    assert record.size == len(other)
    assert objects.get(settings.content_bucket, build_data_key(record.sha256)) == other
    # And nothing changes it any more.
    assert send(keeper, archive).record == record


def _take_turns(lock, function):
    def call(*arguments, **options):
        with lock:
            return function(*arguments, **options)

    return call


@pytest.mark.parametrize("is_same", [True, False])
def test_of_two_at_once_one_is_first(keeper, records, tmp_path, monkeypatch, is_same):
    one = pack(tmp_path / "one")
    two = one if is_same else pack(tmp_path / "two", title='"Other"')
    both, write = threading.Barrier(2, timeout=60), threading.RLock()
    for name in ("_create", "_change"):
        # As DynamoDB has it: a conditional write is one step.
        monkeypatch.setattr(records, name, _take_turns(write, getattr(records, name)))
    read = data_sets.read_data_archive

    def read_together(*arguments, **options):
        found = read(*arguments, **options)
        both.wait()
        return found

    monkeypatch.setattr(data_sets, "read_data_archive", read_together)
    results = []

    def run(archive):
        try:
            results.append(send(keeper, archive).record)
        except ConfigurationError as error:
            results.append(error)

    threads = [threading.Thread(target=run, args=(each,)) for each in (one, two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    kept = keeper.store.get_data_set("eurusd-hourly", "2018-02")
    refused = [each for each in results if isinstance(each, ConfigurationError)]
    assert kept.is_complete
    assert len(refused) == (0 if is_same else 1)
    assert all(each.digest == kept.digest for each in results if each not in refused)


def test_versions_are_listed_the_newest_first_and_what_makes_no_sense_apart(
    keeper, records, objects, settings, tmp_path
):
    for days, version in enumerate(("1", "3", "2")):
        at = NOW + timedelta(days=days)
        add(records, objects, settings, tmp_path / version, version=version, at=at)
    records.put_stored(settings.events_table, {"event": "#data", "entry": "odd 1", "size": "x"})

    found = keeper.store.list_data_sets()

    assert [each.definition.version for each in found.records] == ["2", "3", "1"]
    assert list(found.unreadable) == ["odd 1"]
    with pytest.raises(UnknownData, match="there is no data set 'none'; there are eurusd-hourly"):
        keeper.store.list_versions("none")
    with pytest.raises(UnknownData, match="no version '9'; there are 2, 3, 1"):
        keeper.store.get_data_set("eurusd-hourly", "9")
    with pytest.raises(UnknownData, match="'sp500' is built into"):
        keeper.store.list_versions("sp500")


def test_data_sets_are_no_events(keeper, records, settings, tmp_path):
    from touchstone.stores.events import EventStore

    send(keeper, pack(tmp_path / "set"))

    events = EventStore(records, settings.events_table)
    assert [each.name for each in events.list_events().records] == ["default"]
    assert isinstance(events.data_sets, DataStore)


# --- what the judge gets -------------------------------------------------------------------------


def test_the_built_in_data_set_is_the_judges_own(objects, settings):
    assert fetch_data(objects, settings, None) is None


def test_a_data_set_is_unpacked_once(keeper, objects, settings, tmp_path, monkeypatch):
    record = send(keeper, pack(tmp_path / "set")).record

    folder = fetch_data(objects, settings, pin(record))
    assert folder is not None
    assert folder.name == record.digest
    assert (folder / "eurusd.csv").read_bytes() == BODY
    assert (folder / "data.toml").is_file()
    monkeypatch.setattr(objects, "fetch", lambda *_, **__: 1 / 0)
    assert fetch_data(objects, settings, pin(record)) == folder
    assert [path.name for path in folder.parent.iterdir()] == [record.digest]


@pytest.mark.parametrize("damage", ["gone", "other bytes", "other size", "other data"])
def test_what_is_not_as_on_record_never_reaches_the_judge(
    keeper, objects, settings, tmp_path, damage
):
    record = send(keeper, pack(tmp_path / "set")).record
    key = (settings.content_bucket, build_data_key(record.sha256))
    changes = {}
    if damage == "gone":
        objects.objects.clear()
    elif damage == "other bytes":
        objects.objects[key] = pack(tmp_path / "set", title='"Xurusd, hourly"')
    elif damage == "other size":
        changes["size"] = record.size - 1
    else:
        changes["digest"] = "0" * 64

    with pytest.raises(DataUnusable, match="the data set eurusd-hourly 2018-02: "):
        fetch_data(objects, settings, pin(record, **changes))

    assert list((tmp_path / "cache").iterdir()) == []


def test_two_that_unpack_at_once_have_the_same(keeper, objects, settings, tmp_path, monkeypatch):
    record = send(keeper, pack(tmp_path / "set")).record
    read = data_sets.read_data_archive

    def read_and_lose(*arguments, **options):
        found = read(*arguments, **options)
        if not (tmp_path / "cache" / record.digest).exists():
            monkeypatch.setattr(data_sets, "read_data_archive", read)
            fetch_data(objects, settings, pin(record))
        return found

    monkeypatch.setattr(data_sets, "read_data_archive", read_and_lose)

    folder = fetch_data(objects, settings, pin(record))

    assert [path.name for path in folder.parent.iterdir()] == [record.digest]


def test_a_cache_that_others_may_write_to_is_refused_with_the_setting(
    keeper, objects, settings, tmp_path
):
    record = send(keeper, pack(tmp_path / "set")).record
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    with pytest.raises(DataUnusable, match="TOUCHSTONE_DATA_CACHE"):
        fetch_data(objects, settings, pin(record))
    cache.rmdir()
    cache.symlink_to(tmp_path)
    with pytest.raises(DataUnusable, match="TOUCHSTONE_DATA_CACHE"):
        fetch_data(objects, settings, pin(record))
    cache.unlink()
    cache.write_text("")
    with pytest.raises(DataUnusable, match="TOUCHSTONE_DATA_CACHE"):
        fetch_data(objects, settings, pin(record))
