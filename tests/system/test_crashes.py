"""Parts killed the hard way while a training runs: it goes on, and there is one result."""

from __future__ import annotations

import re
import time

from system.installation import SLOW
from waiting import wait_for

PARTS = ["agent-local", "airflow-triggerer", "airflow-scheduler", "dispatcher"]


def test_killed_parts_interrupt_no_training(installation):
    """One training lives through the death of each part in turn."""
    submission_id = installation.submit(SLOW, "--intervals", "5", "--config", "fast.toml")
    before = installation.wait_for_task(submission_id, "i5", "running")
    restarts = {part: installation.part(part)["restarts"] for part in PARTS}
    for part in PARTS:
        # In the middle of the numbered lines, when some are uploaded and some are not.
        time.sleep(2)
        assert installation.task(submission_id, "i5")["exited_at"] is None, "killed too late"
        pid = installation.kill(part)
        if part != PARTS[-1]:
            wait_for(
                f"{part} is another process",
                lambda part=part, pid=pid: installation.part(part)["pid"] not in {None, pid},
            )
    for part in PARTS:
        wait_for(
            f"{part} is healthy again",
            lambda part=part: installation.part(part)["healthy"],
            every=1,
        )
    installation.let_go(before)

    installation.wait_for_submission(submission_id, "success", "error")
    after = installation.task(submission_id, "i5")
    assert installation.submission(submission_id)["status"] == "success", after.get("reason")
    # Never interrupted: the same attempt, running since the same moment.
    assert (after["fence"], after["attempts"]) == (before["fence"], [])
    assert after["running_at"] == before["running_at"]
    assert len(installation.records.list_evaluations(submission_id)) == 2
    shown = installation.run("logs", submission_id, "i5").stdout
    numbers = [int(found) for found in re.findall(r"slow line (\d+)", shown)]
    assert len(numbers) > 100
    assert numbers == list(range(len(numbers)))
    assert all(installation.part(part)["restarts"] > restarts[part] for part in PARTS)
    assert not any(submission_id in name for name in installation.running_attempts())
