"""What an idle agent takes, and how long a verdict is waited for."""

from __future__ import annotations

import time
from datetime import datetime

import psutil
import pytest

from system.installation import EXAMPLES

IDLE_BYTES = 80 * 1000**2
"""The promise: an agent costs a server less than this."""


@pytest.fixture
def quiet(installation):
    """An installation that runs nothing."""
    assert installation.running_attempts() == []
    return installation


def test_an_idle_agent_is_small(quiet):
    process = psutil.Process(quiet.part("agent-local")["pid"])

    assert process.memory_info().rss < IDLE_BYTES


def test_a_verdict_is_on_record_with_the_time_it_took(quiet):
    """How long it takes is a benchmark's business; that it can be told is the product's."""
    started = time.time()
    submission_id = quiet.submit(EXAMPLES / "momentum")

    submission = quiet.wait_for_submission(submission_id, "accepted")

    accepted = datetime.fromisoformat(submission["accepted_at"]).timestamp()
    assert started < accepted < time.time()
