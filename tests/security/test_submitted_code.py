"""What submitted code can do to what watches it, and to the machine."""

from __future__ import annotations

import shutil

import pytest

from security.attacks import Pulse, User
from waiting import wait_for

MIB = 1024**2
VALIDATION_OUTPUT = 64 * MIB


@pytest.fixture(scope="module")
def engineer(installation):
    return User(installation, "engineer")


def measure_attempts(installation):
    """Return the bytes that all attempts' folders of the stack's agent hold."""
    total = 0
    for file in (installation.state_dir / "agent").rglob("fill"):
        try:
            total += file.stat().st_size
        except FileNotFoundError:
            continue
    return total


def test_whoever_stops_its_watcher_and_fills_the_disk_is_ended(isolated, modules, unharmed):
    before = shutil.disk_usage(isolated.state_dir).free
    submission_id = isolated.submit(modules / "disk_filler")
    most = 0

    def is_over():
        nonlocal most
        most = max(most, measure_attempts(isolated))
        return isolated.submission(submission_id).get("status") in {"rejected", "error", "accepted"}

    wait_for("it is judged", is_over, every=0.2)

    found = isolated.submission(submission_id)
    assert found["status"] == "rejected", found
    # A kernel that has a wall lets nothing through, so that its time runs out; on others the agent
    # ends what writes.
    assert ("time limit" if most == 0 else "output limit") in found["reason"]
    # 5 ms a block: what is written within the two seconds that an end may take, with room.
    assert most < VALIDATION_OUTPUT + 500 * MIB
    assert before - shutil.disk_usage(isolated.state_dir).free < 2000 * MIB


def test_whoever_stops_its_watcher_and_sleeps_is_ended(isolated, sleeper):
    found = isolated.wait_for_submission(sleeper, "rejected", "error")

    assert found["status"] == "rejected"
    assert "limit" in found["reason"]
    isolated.wait_until_gone(f"touchstone-{isolated.settings.env}-{sleeper}")


def test_no_code_writes_its_own_verdict(isolated, modules, engineer, unharmed):
    with Pulse(isolated, engineer.http.headers["Authorization"]) as pulse:
        submission_id = isolated.submit(
            *(modules / "forged_verdict", "--intervals", "1"),
            *("--override", "training.epochs=2"),
        )
        found = isolated.wait_for_submission(submission_id, "success", "error")
    pulse.check()

    task = isolated.task(submission_id, "i1")
    # It could neither kill its runner nor speak for it: the training went on, and ended by itself.
    assert found["status"] == "success", found["reason"]
    assert task["attempts"] == []
    log = isolated.run("logs", submission_id, "i1").stdout
    assert "kill said -1" in log
