"""Which images go when those that were pulled here take too much."""

from __future__ import annotations

import json

import pytest

from touchstone_agent.adapters.pulled import MAX_IMAGES, RECENT_SECONDS, PulledImages

SIZES = {"a": 40, "b": 40, "c": 40, "other": 1000}


class Store:
    """An engine's images, and a clock."""

    def __init__(self, file):
        self.file = file
        self.at = 1_000_000.0
        self.there = dict(SIZES)
        self.used_elsewhere = set()
        self.open()

    def open(self):
        self.images = PulledImages(self.file, most_bytes=100, now=lambda: self.at)

    def remove(self, name):
        if name in self.used_elsewhere:
            return False
        del self.there[name]
        return True

    def sweep(self, *in_use):
        self.images.sweep(in_use=in_use, measure=self.there.get, remove=self.remove)
        return sorted(self.there)


@pytest.fixture
def store(tmp_path):
    """Three images of forty bytes, an hour between them, where a hundred bytes may be."""
    store = Store(tmp_path / "images.json")
    for name in "abc":
        store.images.add(name)
        store.at += 3600
    return store


def test_the_one_that_was_needed_longest_ago_goes(store):
    assert store.sweep() == ["b", "c", "other"]
    assert store.sweep() == ["b", "c", "other"]


def test_what_is_needed_again_is_new_again(store):
    store.images.touch("a")
    store.at += 3600
    assert store.sweep() == ["a", "c", "other"]


def test_what_is_in_use_stays_and_the_next_one_goes(store):
    assert store.sweep("a") == ["a", "c", "other"]


def test_what_somebody_else_uses_stays_and_is_tried_again(store):
    store.used_elsewhere = {"a", "b", "c"}
    assert store.sweep() == ["a", "b", "c", "other"]
    store.used_elsewhere = set()
    assert store.sweep() == ["b", "c", "other"]


def test_what_was_needed_just_now_stays(store):
    for name in "abc":
        store.images.touch(name)
    store.at += RECENT_SECONDS - 1
    assert store.sweep() == ["a", "b", "c", "other"]
    store.at += 2
    assert store.sweep() == ["b", "c", "other"]


def test_what_nobody_here_has_pulled_is_never_touched(store):
    store.images.touch("other")
    store.images = PulledImages(store.file, most_bytes=0, now=lambda: store.at)
    assert store.sweep() == ["other"]


def test_an_image_that_somebody_has_removed_is_forgotten(store):
    del store.there["a"]
    assert store.sweep() == ["b", "c", "other"]
    assert sorted(json.loads(store.file.read_text())) == ["b", "c"]


def test_the_next_agent_knows_what_this_one_has_pulled(store):
    store.open()
    assert store.sweep() == ["b", "c", "other"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"a": "x"}', '{"a": null}', "[" * 5000, "\xff", "x" * (2 * 1024**2 + 1)],
)
def test_a_file_that_makes_no_sense_counts_as_none(store, text):
    store.file.write_text(text, encoding="latin-1")
    store.open()
    assert store.sweep() == ["a", "b", "c", "other"]
    store.images.add("a")
    assert list(json.loads(store.file.read_text())) == ["a"]


def test_there_is_a_limit_to_what_is_counted(store):
    for number in range(MAX_IMAGES + 5):
        store.images.add(f"n{number}")
    assert len(json.loads(store.file.read_text())) == MAX_IMAGES


def test_a_disk_that_is_full_stops_nobody(store, monkeypatch):
    store.file = store.file.parent / "gone" / "images.json"
    store.open()
    store.images.add("a")
    assert store.sweep() == ["a", "b", "c", "other"]
