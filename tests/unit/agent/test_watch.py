"""A folder is looked at often, but never for longer than it is left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from touchstone_agent import watch as watches
from touchstone_agent.core.limits import Allowance, Usage
from touchstone_agent.watch import LOOK_SECONDS, FolderWatch

ALLOWED = Allowance(bytes=1000, told_bytes=1024**2)


class World:
    """A clock, and looks that take time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.seconds = 0.0
        self.looks = 0
        self.usage = Usage()

    def measure(self, folder: Path, allowed: Allowance) -> Usage:
        self.looks += 1
        self.now += self.seconds
        return self.usage


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(watches, "measure_folder", world.measure)
    return world


@pytest.fixture
def make_watch(world: World) -> Callable[..., FolderWatch]:
    def make(**options: object) -> FolderWatch:
        return FolderWatch(Path("/out"), ALLOWED, monotonic=lambda: world.now, **options)

    return make


def test_a_look_that_is_not_due_is_not_taken(world: World, make_watch) -> None:
    watch = make_watch()
    for _ in range(3):
        assert watch.find_excess() is None
    assert world.looks == 1

    assert watch.find_excess(at_once=True) is None
    world.now += LOOK_SECONDS
    watch.find_excess()
    assert world.looks == 3


def test_an_output_folder_is_looked_at_once_a_second_however_long_that_takes(
    world: World, make_watch
) -> None:
    watch, world.seconds = make_watch(), 0.3
    watch.find_excess()
    world.now += 1.0
    watch.find_excess()
    assert world.looks == 2


def test_a_large_folder_that_nobody_hurries_for_is_left_alone_for_longer(
    world: World, make_watch
) -> None:
    watch, world.seconds = make_watch(longest_pause=30.0), 0.5
    watch.find_excess()
    world.now += 9.0
    watch.find_excess()
    assert world.looks == 1


def test_what_has_no_name_is_added_to_what_has_one(
    world: World, make_watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.usage = Usage(bytes=600, files=1)
    monkeypatch.setattr(watches, "measure_unlinked", lambda pid, folder: Usage(bytes=600, files=1))

    assert make_watch().find_excess() is None
    watch = make_watch(find_main_pid=lambda: 7)
    assert watch.find_excess() == "output limit: stopped after more than 1 MiB"
    assert watch.bytes == 1200
