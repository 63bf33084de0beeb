"""What an idle agent takes, and how long a verdict is waited for."""

from __future__ import annotations

import time
from datetime import datetime

import psutil
import pytest

from system.installation import EXAMPLES
from waiting import wait_for

IDLE_BYTES = 80 * 1000**2
IDLE_CORES = 0.01
"""The promise: an agent that has nothing to do costs a server less than these."""


@pytest.fixture
def quiet(installation):
    """An installation that runs nothing, or nothing any more."""
    wait_for("nothing runs", lambda: not installation.running_attempts(), every=0.5)
    return installation


def test_an_idle_agent_is_small(quiet):
    process = psutil.Process(quiet.part("agent-local")["pid"])

    assert process.memory_info().rss < IDLE_BYTES


def test_an_idle_agent_hardly_works(quiet):
    process = psutil.Process(quiet.part("agent-local")["pid"])

    def work(seconds: float) -> float:
        before = process.cpu_times()
        time.sleep(seconds)
        after = process.cpu_times()
        return (after.user + after.system - before.user - before.system) / seconds

    # One window is enough: an agent that polled in a tight loop would have none.
    wait_for("the agent rests", lambda: work(10) < IDLE_CORES)


def test_a_verdict_is_on_record_with_the_time_it_took(quiet):
    """How long it takes is a benchmark's business; that it can be told is the product's."""
    started = time.time()
    submission_id = quiet.submit(EXAMPLES / "momentum")

    submission = quiet.wait_for_submission(submission_id, "accepted")

    accepted = datetime.fromisoformat(submission["accepted_at"]).timestamp()
    assert started < accepted < time.time()
