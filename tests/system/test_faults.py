"""A fault of the server is never the submitter's, and whatever is cleared trains or is told."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import suppress

import pytest

from system.installation import EXAMPLES, SLOW
from waiting import wait_for

pytestmark = pytest.mark.campaign(sample=999)
DISK_MIB = 48


@pytest.fixture
def attempts(installation):
    """The folder of the agent's attempts, on a small disk of its own."""
    folder = installation.state_dir / "agents" / "local" / "attempts"
    wait_for(
        "nothing runs and nothing is left to move",
        lambda: not installation.running_attempts() and not any(folder.iterdir()),
        every=0.5,
    )
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "touchstone-test", str(folder)],
        check=True,
    )
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def training(installation):
    """A submission whose one training runs."""
    submission_id = installation.submit(SLOW, "--intervals", "5")
    try:
        yield submission_id, installation.wait_for_task(submission_id, "i5", "running")
    finally:
        installation.cancel_what_goes_on(submission_id)


def find_first_attempt(installation, submission_id):
    """Return the first attempt once it is one of several."""

    def find():
        task = installation.task(submission_id, "i5")
        return task["attempts"][0] if task.get("attempts") else None

    return wait_for("another attempt has begun", find, every=0.5)


def assert_is_the_servers(attempt):
    assert attempt["outcome"] == "failed(infrastructure)", attempt
    assert "nothing is wrong with the submission" in attempt["reason"] or (
        attempt["failure_class"] in {"temporary", "unknown"}
    ), attempt


def test_a_full_disk_is_the_servers_fault_and_the_task_is_tried_again(
    attempts, installation, training
):
    submission_id, task = training
    filler = attempts / "filler"
    with filler.open("wb") as file, suppress(OSError):
        while True:
            file.write(bytes(65536))
            file.flush()
    (attempts / task["container"] / "out" / "go").touch()

    first = find_first_attempt(installation, submission_id)
    filler.unlink()

    assert_is_the_servers(first)
    again = installation.wait_for_task(submission_id, "i5", "running", "success")
    assert again["attempt"] > task["attempt"]


def test_a_folder_that_vanishes_is_the_servers_fault_and_the_task_is_tried_again(
    installation, training
):
    submission_id, task = training
    folder = installation.state_dir / "agents" / "local" / "attempts" / task["container"]
    shutil.rmtree(folder / "out")

    first = find_first_attempt(installation, submission_id)

    assert_is_the_servers(first)


def clear(installation, run_id, task_id, **more):
    answer = installation.airflow.post(
        "/dags/touchstone/clearTaskInstances",
        json={
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": [task_id],
            "only_failed": False,
            "include_downstream": True,
            **more,
        },
    )
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("step", ["train", "plan"])
def test_what_is_cleared_in_an_older_run_is_refused_at_once_and_changes_nothing(
    installation, accepted, step
):
    submission_id, older, newer = accepted
    before = installation.submission(submission_id)

    clear(installation, older, step)

    def find_end():
        path = f"/dags/touchstone/dagRuns/{older}"
        state = installation.airflow.get(path).json()["state"]
        return state if state in {"success", "failed"} else None

    assert wait_for("the run has ended", find_end, every=0.5) == "failed"
    after = installation.submission(submission_id)
    assert {name: after[name] for name in ("status", "score", "run_ids")} == {
        name: before[name] for name in ("status", "score", "run_ids")
    }
    assert after["run_ids"][-1] == newer


@pytest.fixture(scope="module")
def accepted(installation):
    """A submission that was scheduled twice, with the two runs that trained it."""
    fast = ("--intervals", "5", "--override", "training.epochs=2", "--wait")
    first = installation.ask("submit", str(EXAMPLES / "momentum"), *fast)["submission_id"]
    installation.ask("schedule", first, *fast)
    older, newer = installation.submission(first)["run_ids"]
    return first, older, newer
