"""Answers that may be a moment old."""

from __future__ import annotations

import asyncio
import threading

import pytest

from touchstone.cache import AsyncCached, Cached

CALLERS = 40


class Source:
    """Counts how often it is asked; its clock is moved by hand."""

    def __init__(self):
        self.asked = 0
        self.now = 0.0
        self.error = None

    def ask(self):
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.asked

    async def ask_slowly(self):
        await asyncio.sleep(0)
        return self.ask()


def options(source):
    return {"seconds": 5, "monotonic": lambda: source.now, "roll": lambda: 0.0}


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def cached(source):
    return Cached(source.ask, **options(source))


@pytest.fixture
def async_cached(source):
    return AsyncCached(source.ask_slowly, **options(source))


def test_an_answer_is_given_again_until_it_is_too_old(cached, source):
    assert cached() == 1
    source.now = 4.9
    assert cached() == 1
    source.now = 5.0
    assert cached() == 2
    assert source.asked == 2


def test_a_fault_is_passed_on_and_soon_asked_for_anew(cached, source):
    """An old answer must not stand in for a store that is away: nobody would notice."""
    cached()
    source.now, source.error = 10.0, ConnectionError("away")
    for _ in range(3):
        with pytest.raises(ConnectionError):
            cached()
    assert source.asked == 2, "a service that is down is not asked by each of those who were told"

    source.error, source.now = None, 11.0

    assert cached() == 3


def test_an_empty_answer_is_an_answer(source):
    cached = Cached(lambda: source.ask() and None, **options(source))

    assert cached() is None
    assert cached() is None
    assert source.asked == 1


def test_answers_of_many_processes_do_not_grow_old_together(source):
    early = Cached(source.ask, **options(source) | {"roll": lambda: 1.0})
    early()
    source.now = 4.5

    assert early() == 2


def ask_from_threads(cached):
    """Ask from many threads at once; return what each was told."""
    told = []

    def ask():
        try:
            told.append(cached())
        except Exception as error:
            told.append(error)

    threads = [threading.Thread(target=ask) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    return threads, told


@pytest.mark.parametrize("error", [None, ConnectionError("away")], ids=["answer", "failure"])
def test_threads_that_ask_together_share_one_request(source, error):
    """The catalogue was fetched 40 times for 40 callers, one after another."""
    begun, gate = threading.Event(), threading.Event()
    source.error = error

    def ask():
        begun.set()
        gate.wait(30)
        return source.ask()

    threads, told = ask_from_threads(Cached(ask, **options(source)))
    begun.wait(30)
    gate.set()
    for thread in threads:
        thread.join(30)

    assert told == [error or 1] * CALLERS
    assert source.asked == 1


def test_nobody_waits_for_a_request_that_was_interrupted(source):
    source.error = KeyboardInterrupt()
    cached = Cached(source.ask, **options(source))
    with pytest.raises(KeyboardInterrupt):
        cached()

    source.error = None

    assert cached() == 2


@pytest.mark.parametrize("error", [None, ConnectionError("away")], ids=["answer", "failure"])
async def test_coroutines_that_ask_together_share_one_request(async_cached, source, error):
    source.error = error
    asking = (async_cached() for _ in range(CALLERS))

    told = await asyncio.gather(*asking, return_exceptions=True)

    assert told == [error or 1] * CALLERS
    assert source.asked == 1


async def test_an_answer_is_kept_for_coroutines_too(async_cached, source):
    assert await async_cached() == 1
    source.now = 4.9
    assert await async_cached() == 1
    source.now = 5.0
    assert await async_cached() == 2


async def test_a_failure_is_soon_asked_for_anew_by_coroutines_too(async_cached, source):
    source.error = ConnectionError("away")
    for _ in range(3):
        with pytest.raises(ConnectionError):
            await async_cached()
    assert source.asked == 1

    source.error, source.now = None, 1.0

    assert await async_cached() == 2


async def test_one_that_is_cancelled_does_not_take_the_request_with_it(async_cached, source):
    first = asyncio.create_task(async_cached())
    second = asyncio.create_task(async_cached())
    await asyncio.sleep(0)
    first.cancel()

    assert await second == 1
    assert first.cancelled() or first.cancelling()
    assert source.asked == 1
