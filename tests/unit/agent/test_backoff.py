"""Waits between tries."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone_agent.core.backoff import MOST_ASKED_SECONDS, Backoff

ROWS = [(0, 5), (1, 5), (2, 10), (4, 40), (5, 60), (1025, 60), (10**6, 60)]


@pytest.mark.parametrize(("failures", "seconds"), ROWS)
def test_waits_double_up_to_the_cap(failures: int, seconds: float) -> None:
    backoff = Backoff(first_seconds=5, cap_seconds=60, roll=lambda: 0.0)

    assert backoff.after(failures) == seconds


@pytest.mark.parametrize(("failures", "seconds"), ROWS)
def test_chance_takes_off_a_quarter_at_most(failures: int, seconds: float) -> None:
    backoff = Backoff(first_seconds=5, cap_seconds=60, roll=lambda: 1.0)

    assert backoff.after(failures) == 0.75 * seconds


def test_two_that_one_fault_has_stopped_do_not_come_back_together() -> None:
    backoff = Backoff(first_seconds=5, cap_seconds=60)

    assert len({backoff.after(3) for _ in range(20)}) > 1


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [(None, 5), (1, 5), (30, 30), (1e9, 300), (math.inf, 300), (math.nan, 5), (-7, 5)],
)
def test_a_peer_that_asks_for_patience_gets_a_bounded_one(
    asked: float | None, seconds: float
) -> None:
    backoff = Backoff(first_seconds=5, cap_seconds=60, roll=lambda: 0.0)

    assert backoff.after(1, asked=asked) == seconds


@given(st.integers(), st.none() | st.floats())
def test_no_count_and_no_wish_make_a_wait_that_is_none(failures: int, asked: float | None) -> None:
    wait = Backoff(first_seconds=0.5, cap_seconds=15).after(failures, asked=asked)

    assert 0 < wait <= MOST_ASKED_SECONDS
