"""What was prepared is found once it is whole, stays while it is used, and goes when it is old."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from touchstone_agent.adapters.prepared import KEPT_SECONDS, PreparedCache, build_key

MIB = 1024**2


@pytest.fixture
def cache(tmp_path: Path) -> PreparedCache:
    return PreparedCache(tmp_path / "prepared", most_bytes=10 * MIB)


@pytest.fixture
def attempt(tmp_path: Path) -> Path:
    folder = tmp_path / "attempt"
    folder.mkdir()
    return folder


def fill(cache: PreparedCache, key: str, *, size: int = MIB, name: str = "maker") -> None:
    (cache.begin(name) / "lib").write_text(key)
    cache.complete(name, key, size=size)


def test_an_entry_is_found_once_it_is_complete(cache: PreparedCache, attempt: Path) -> None:
    folder = cache.begin("maker")
    (folder / "lib").write_text("half")
    assert cache.take("k1", attempt) is None

    cache.complete("maker", "k1", size=4)

    found = cache.take("k1", attempt)
    assert found is not None
    assert (found / "lib").read_text() == "half"
    assert cache.find_assigned(attempt) == found


def test_what_an_earlier_try_has_left_is_gone(cache: PreparedCache) -> None:
    (cache.begin("maker") / "lib").write_text("old")

    assert list(cache.begin("maker").iterdir()) == []
    cache.discard("maker")
    cache.discard("maker")


def test_who_comes_second_changes_nothing(cache: PreparedCache, attempt: Path) -> None:
    fill(cache, "k1")
    (cache.begin("other") / "lib").write_text("other")
    cache.complete("other", "k1", size=1)

    found = cache.take("k1", attempt)
    assert found is not None
    assert (found / "lib").read_text() == "k1"


def test_only_one_fills_an_entry_at_a_time(cache: PreparedCache) -> None:
    with cache.building("k1") as first, cache.building("k1") as second:
        assert (first, second) == (True, False)
        with cache.building("k2") as another:
            assert another
    with cache.building("k1") as later:
        assert later


def age(cache: PreparedCache, tmp_path: Path, key: str, seconds: float) -> None:
    entry = tmp_path / "prepared" / key
    then = entry.stat().st_mtime - seconds
    os.utime(entry, (then, then))


def list_keys(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "prepared").iterdir()}


def test_the_least_used_goes_when_there_is_too_much(
    cache: PreparedCache, attempt: Path, tmp_path: Path
) -> None:
    for number, key in enumerate(("k1", "k2", "k3")):
        fill(cache, key, size=4 * MIB)
        age(cache, tmp_path, key, 1000 - 100 * number)
    assert cache.take("k1", attempt) is not None  # used, and thereby the newest
    (attempt / "prepared").unlink()

    cache.sweep(list)

    assert list_keys(tmp_path) == {"k1", "k3"}


def test_what_is_in_use_stays_however_old_and_large(
    cache: PreparedCache, attempt: Path, tmp_path: Path
) -> None:
    fill(cache, "k1", size=50 * MIB)
    cache.take("k1", attempt)
    age(cache, tmp_path, "k1", KEPT_SECONDS + 1)

    cache.sweep(lambda: [("attempt", attempt)])
    assert list_keys(tmp_path) == {"k1"}
    cache.sweep(list)
    assert list_keys(tmp_path) == set()


def test_only_what_is_being_made_by_an_attempt_that_there_is_stays_half(
    cache: PreparedCache, attempt: Path, tmp_path: Path
) -> None:
    for name in ("attempt", "gone"):
        cache.begin(name)

    cache.sweep(lambda: [("attempt", attempt)])

    assert list_keys(tmp_path) == {".partial-attempt"}


def test_a_key_is_of_all_that_an_entry_is_made_from() -> None:
    inputs = [("elnigma", "a" * 64)]
    keys = {
        build_key("sha256:1", ("prepare",), inputs),
        build_key("sha256:2", ("prepare",), inputs),
        build_key("sha256:1", ("prepare", "x"), inputs),
        build_key("sha256:1", ("prepare",), [("elnigma", "b" * 64)]),
    }
    assert len(keys) == 4
    assert build_key("sha256:1", ("prepare",), inputs) in keys


def test_what_was_made_before_the_machine_crashed_is_not_trusted(
    cache: PreparedCache, attempt: Path, tmp_path: Path
) -> None:
    """Its name may have reached the disk, and half of its files not."""
    fill(cache, "k1")
    later = PreparedCache(tmp_path / "prepared", most_bytes=10 * MIB, boot="another")

    assert later.take("k1", attempt) is None
    fill(later, "k1", name="again")
    assert later.take("k1", attempt) is not None
    fill(cache, "k2")
    later.sweep(list)

    assert list_keys(tmp_path) == {"k1"}
