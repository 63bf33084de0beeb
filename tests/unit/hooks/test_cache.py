"""Answers that may be a moment old."""

from __future__ import annotations

import pytest

from touchstone.hooks.cache import Cached


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


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def cached(source):
    return Cached(source.ask, seconds=5, monotonic=lambda: source.now)


def test_an_answer_is_given_again_until_it_is_too_old(cached, source):
    assert cached() == 1
    source.now = 4.9
    assert cached() == 1
    source.now = 5.0
    assert cached() == 2
    assert source.asked == 2


def test_a_fault_is_passed_on_and_the_next_call_asks_anew(cached, source):
    """An old answer must not stand in for a store that is away: nobody would notice."""
    cached()
    source.now, source.error = 10.0, ConnectionError("away")
    with pytest.raises(ConnectionError):
        cached()

    source.error = None

    assert cached() == 3


def test_an_empty_answer_is_an_answer(source):
    cached = Cached(lambda: source.ask() and None, seconds=5, monotonic=lambda: source.now)

    assert cached() is None
    assert cached() is None
    assert source.asked == 1
