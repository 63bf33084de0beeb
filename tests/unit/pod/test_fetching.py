from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from tests.unit.pod.conftest import make_input

from fakes.waits import are_jittered
from touchstone_agent.adapters.transfer import GrantExpired, TransferCancelled
from touchstone_agent.pod.fetching import MAX_FAILURES, InputFetcher, find_grant, keep_grants
from touchstone_agent.pod.home import PodHome, write_json
from touchstone_agent.protocol.errors import PermanentError, TransientError


class FakeTransfer:
    """Fails as told, in turn; then writes the file."""

    def __init__(self, *problems: Exception) -> None:
        self.problems = list(problems)
        self.urls: list[str] = []

    def fetch(self, grant: Any, target: Path, **_: Any) -> None:
        self.urls.append(grant.url)
        if self.problems:
            raise self.problems.pop(0)
        target.write_text("got")


class Pauses(threading.Event):
    """Waits for nothing, and lets something happen instead."""

    def __init__(self, *happenings: Any) -> None:
        super().__init__()
        self.waited: list[float] = []
        self._happenings = list(happenings)

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(timeout or 0)
        if self._happenings:
            self._happenings.pop(0)()
        return self.is_set()


def fetch(
    home: PodHome, transfer: FakeTransfer, pauses: Pauses, wanted: list[tuple[str, ...]]
) -> Path:
    target = home.root / "file"
    InputFetcher(home, transfer, stopping=pauses, want_grants=wanted.append).fetch(
        make_input(url="http://store/1"), target
    )
    return target


def test_an_input_is_fetched_with_the_orders_grant(home: PodHome) -> None:
    transfer, wanted = FakeTransfer(), []
    assert fetch(home, transfer, Pauses(), wanted).read_text() == "got"
    assert (transfer.urls, wanted) == (["http://store/1"], [])


def test_a_later_grant_is_preferred(home: PodHome) -> None:
    keep_grants(home, (make_input(url="http://store/2"),))
    transfer = FakeTransfer()
    fetch(home, transfer, Pauses(), [])
    assert transfer.urls == ["http://store/2"]


def test_a_refused_grant_is_asked_for_and_waited_for(home: PodHome) -> None:
    transfer, wanted = FakeTransfer(GrantExpired("no")), []
    fresh = (make_input(url="http://store/2"),)
    pauses = Pauses(lambda: None, lambda: keep_grants(home, fresh))
    fetch(home, transfer, pauses, wanted)
    assert transfer.urls == ["http://store/1", "http://store/2"]
    assert wanted == [("content",), ()]
    assert len(pauses.waited) == 2


def test_a_store_that_stumbles_is_tried_again_after_a_pause(home: PodHome) -> None:
    transfer, pauses = FakeTransfer(TransientError("a"), TransientError("b")), Pauses()
    fetch(home, transfer, pauses, [])
    assert are_jittered(pauses.waited, [2, 4])


def test_a_store_that_cannot_be_reached_for_long_is_given_up(home: PodHome) -> None:
    transfer = FakeTransfer(*[TransientError("down")] * 99)
    with pytest.raises(TransientError, match="down"):
        fetch(home, transfer, Pauses(), [])
    assert len(transfer.urls) == MAX_FAILURES


def test_wrong_bytes_are_not_fetched_again(home: PodHome) -> None:
    transfer = FakeTransfer(PermanentError("other bytes"))
    with pytest.raises(PermanentError, match="other bytes"):
        fetch(home, transfer, Pauses(), [])
    assert len(transfer.urls) == 1


def test_who_is_to_end_does_not_wait(home: PodHome) -> None:
    pauses = Pauses()
    pauses.set()
    with pytest.raises(TransferCancelled):
        fetch(home, FakeTransfer(GrantExpired("no")), pauses, [])
    with pytest.raises(TransferCancelled):
        fetch(home, FakeTransfer(TransferCancelled("now")), pauses, [])


def test_a_grant_that_is_none_is_not_believed(home: PodHome) -> None:
    write_json(home.grants_file, {"content": {"url": 1}})
    assert find_grant(home, make_input(url="http://store/1")).url == "http://store/1"
