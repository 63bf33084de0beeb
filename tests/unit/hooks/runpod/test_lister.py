"""The one list of a process, on a clock of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from touchstone.core.pods import Pod, PodStatus
from touchstone.hooks.runpod.api import Account
from touchstone.hooks.runpod.errors import ServiceUnavailable
from touchstone.hooks.runpod.lister import (
    AsyncPodLister,
    PodLister,
    Snapshot,
    get_async_lister,
    get_lister,
)
from touchstone.hooks.runpod.requests import PodList


def build_pod(pod_id: str, name: str = "n", created: datetime | None = None) -> Pod:
    return Pod(
        id=pod_id,
        name=name,
        status=PodStatus.RUNNING,
        image="i",
        gpu="g",
        gpu_count=1,
        cloud=None,
        data_center=None,
        price_per_hour=Decimal(1),
        created_at=created,
    )


class FakeLists:
    """A list that is counted and may fail."""

    def __init__(self, pages: int = 1) -> None:
        self.pages = pages
        self.calls = 0
        self.error: Exception | None = None

    def read_pods(self) -> PodList:
        self.calls += 1
        if self.error:
            raise self.error
        return PodList(pods=[build_pod(f"p{self.calls}")], requests=self.pages)


class FakeClock:
    """Seconds that pass only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def lists() -> FakeLists:
    return FakeLists()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def lister(lists: FakeLists, clock: FakeClock) -> PodLister:
    return PodLister(lists, requests_per_minute=60, clock=clock, sleep=clock.sleep)


def test_whoever_asks_at_the_same_time_gets_the_same_list(
    lister: PodLister, lists: FakeLists
) -> None:
    first = lister.get()
    assert all(lister.get() is first for _ in range(500))
    assert lists.calls == 1


def test_a_list_for_a_new_pod_is_begun_after_it(
    lister: PodLister, lists: FakeLists, clock: FakeClock
) -> None:
    lister.get()
    clock.now += 0.25
    created_at = clock.now
    snapshot = lister.get(since=created_at)
    assert snapshot.begun_at >= created_at
    assert lists.calls == 2


@pytest.mark.parametrize("pages", [1, 10])
def test_lists_stay_under_their_rate_however_many_pages_they_have(
    clock: FakeClock, pages: int
) -> None:
    lists = FakeLists(pages=pages)
    lister = PodLister(lists, requests_per_minute=60, clock=clock, sleep=clock.sleep)
    begin = clock.now
    while clock.now < begin + 600:
        lister.get(since=clock.now)
        clock.now += 0.01
    assert lists.calls * pages <= 600 + pages


def test_failed_lists_count_against_the_rate(
    lister: PodLister, lists: FakeLists, clock: FakeClock
) -> None:
    lists.error = ServiceUnavailable("down")
    begin = clock.now
    for _ in range(30):
        with pytest.raises(ServiceUnavailable):
            lister.get()
    assert clock.now - begin >= 29


def test_a_failure_is_shared_by_those_who_waited_for_it() -> None:
    lists, have_asked = FakeLists(), threading.Event()
    failure = ServiceUnavailable("down")
    callers: set[int] = set()

    class SlowLists:
        def read_pods(self) -> PodList:
            have_asked.wait()
            lists.error = failure
            return lists.read_pods()

    def tell_time() -> float:
        # What each caller asks first: none of the five comes after the failure.
        now = time.monotonic()
        callers.add(threading.get_ident())
        if len(callers) == 5:
            have_asked.set()
        return now

    lister = PodLister(SlowLists(), clock=tell_time)
    errors: list[Exception] = []

    def ask() -> None:
        try:
            lister.get()
        except ServiceUnavailable as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [failure] * 5
    assert lists.calls == 1


async def test_a_thousand_coroutines_share_one_list(lists: FakeLists) -> None:
    lister = AsyncPodLister(PodLister(lists))
    snapshots = await asyncio.gather(*(lister.get() for _ in range(1000)))
    assert len({id(each) for each in snapshots}) == 1
    assert lists.calls == 1


async def test_a_failure_reaches_every_coroutine_once(lists: FakeLists) -> None:
    lists.error = ServiceUnavailable("down")
    lister = AsyncPodLister(PodLister(lists))
    found = await asyncio.gather(*(lister.get() for _ in range(20)), return_exceptions=True)
    assert found == [lists.error] * 20
    assert lists.calls == 1


async def test_an_account_has_one_lister_per_process() -> None:
    one, two = Account(api_key="a"), Account(api_key="b")
    assert get_lister(one) is get_lister(Account(api_key="a"))
    assert get_lister(one) is not get_lister(two)
    assert get_async_lister(one) is get_async_lister(one)


def test_pods_of_one_name_come_oldest_first() -> None:
    now = datetime(2026, 11, 22, tzinfo=UTC)
    pods = (
        build_pod("new", "x", now),
        build_pod("unknown", "x"),
        build_pod("old", "x", now - timedelta(seconds=1)),
        build_pod("other", "xy", now),
    )
    snapshot = Snapshot(pods=pods, begun_at=0, checked_at=now)
    assert [pod.id for pod in snapshot.list_named("x")] == ["old", "new", "unknown"]
    assert snapshot.find("nosuchpod") is None
