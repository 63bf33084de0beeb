from __future__ import annotations

from typing import Any

import pytest
from tests.unit.pod.conftest import REF, make_input, make_start

from touchstone_agent.pod import start as starting
from touchstone_agent.pod.fetching import find_grant
from touchstone_agent.pod.home import PodHome, locked, read_json, write_json
from touchstone_agent.pod.start import start
from touchstone_agent.protocol.errors import ConfigurationError, TransientError
from touchstone_agent.protocol.pods import PodPhase, PodState


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The locks that runners were started with."""
    locks: list[int] = []
    monkeypatch.setattr(starting, "_spawn", lambda home, lock: locks.append(lock))
    return locks


def test_an_order_is_on_disk_before_its_runner_begins(
    home: PodHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        starting, "_spawn", lambda home, lock: seen.append(read_json(home.order_file))
    )
    state = PodState.model_validate(start(home, make_start()))
    assert (state.phase, state.ref) == (PodPhase.PREPARING, REF)
    assert seen == [{"boot_id": "b1", "start": make_start().model_dump(mode="json")}]


def test_what_has_begun_is_not_begun_again(home: PodHome, spawned: list[int]) -> None:
    start(home, make_start())
    write_json(home.record_file, {"phase": "running"})
    assert start(home, make_start())["phase"] == "running"
    assert len(spawned) == 1


def test_a_runner_that_holds_its_lock_is_not_joined_by_another(
    home: PodHome, spawned: list[int]
) -> None:
    with locked(home.run_lock, wait=True):
        start(home, make_start())
    assert spawned == []


def test_a_start_that_died_before_its_runner_began_can_be_said_again(
    home: PodHome, monkeypatch: pytest.MonkeyPatch, spawned: list[int]
) -> None:
    order = {"boot_id": "b1", "start": make_start().model_dump(mode="json")}
    write_json(home.order_file, order)
    start(home, make_start())
    assert len(spawned) == 1


@pytest.mark.usefixtures("spawned")
def test_another_attempt_is_refused(home: PodHome) -> None:
    start(home, make_start())
    other = REF.model_copy(update={"fence": 4})
    with pytest.raises(ConfigurationError, match="fence 3, not for s/i5 with fence 4"):
        start(home, make_start(ref=other))
    assert read_json(home.order_file)["start"]["ref"]["fence"] == 3


@pytest.mark.usefixtures("spawned")
def test_said_again_it_changes_nothing_but_the_grants(home: PodHome) -> None:
    old, new = make_input(url="http://store/1"), make_input(url="http://store/2")
    start(home, make_start(inputs=(old,)))
    assert find_grant(home, old).url == "http://store/1"
    before = read_json(home.order_file)
    start(home, make_start(inputs=(new,), argv=("other",)))
    assert find_grant(home, old).url == "http://store/2"
    assert read_json(home.order_file) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"version": 2}, "version 2"), ({"command": ()}, "names no command")],
)
def test_an_order_that_makes_no_sense_is_refused(
    home: PodHome, changes: dict[str, Any], message: str, spawned: list[int]
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        start(home, make_start(**changes))
    assert (home.order_file.exists(), spawned) == (False, [])


def test_a_pod_that_ends_takes_no_order(home: PodHome, spawned: list[int]) -> None:
    write_json(home.ending_file, {"reason": "over"})
    with pytest.raises(TransientError, match="about to end"):
        start(home, make_start())
    assert spawned == []


def test_a_pod_that_has_not_booted_takes_no_order(home: PodHome, spawned: list[int]) -> None:
    home.boot_file.unlink()
    with pytest.raises(TransientError, match="still starting"):
        start(home, make_start())
    assert spawned == []
