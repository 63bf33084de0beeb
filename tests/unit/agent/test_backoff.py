"""Waits between tries."""

from __future__ import annotations

import pytest

from touchstone_agent.core.backoff import Backoff


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 5), (1, 5), (2, 10), (4, 40), (5, 60), (10**6, 60)]
)
def test_waits_double_up_to_the_cap(failures: int, seconds: float) -> None:
    assert Backoff(first_seconds=5, cap_seconds=60).after(failures) == seconds
