"""Ending work by hand: from the UI, by clearing, by the command line; running and waiting."""

from __future__ import annotations

import time

import pytest

from system.installation import SLOW
from waiting import wait_for


@pytest.fixture
def training(installation):
    """A submission whose one training runs, and goes on for minutes if it is let."""
    submission_id = installation.submit(SLOW, "--intervals", "5")
    try:
        task = installation.wait_for_task(submission_id, "i5", "running")
        assert any(task["container"] in name for name in installation.running_attempts())
        yield submission_id, task
    finally:
        installation.cancel_what_goes_on(submission_id)


def set_state(installation, submission_id, task_id, state):
    answer = installation.airflow.patch(
        f"/dags/touchstone/dagRuns/{submission_id}/taskInstances/{task_id}/0",
        json={"new_state": state},
    )
    assert answer.status_code == 200, answer.text


def count_waiting(installation, submission_id):
    """Return how many trainings are pending in Airflow."""
    path = f"/dags/touchstone/dagRuns/{submission_id}/taskInstances"
    found = installation.airflow.get(path).json()["task_instances"]
    return sum(item["task_id"] == "train" and item["state"] == "scheduled" for item in found)


def free_slots(installation):
    return installation.airflow.get("/pools/local").json()["open_slots"]


def test_marking_the_task_failed_ends_the_container(installation, training):
    submission_id, task = training

    set_state(installation, submission_id, "train", "failed")

    installation.wait_until_gone(task["container"])
    installation.wait_for_task(submission_id, "i5", "cancelled")
    submission = installation.wait_for_submission(submission_id, "cancelled")
    assert submission["ended_at"]


def test_clearing_the_task_ends_the_container_and_starts_another(installation, training):
    submission_id, task = training

    cleared = installation.airflow.post(
        "/dags/touchstone/clearTaskInstances",
        json={
            "dry_run": False,
            "dag_run_id": submission_id,
            "task_ids": [["train", 0]],
            "only_failed": False,
            "only_running": False,
            "reset_dag_runs": True,
        },
    )

    assert cleared.status_code == 200, cleared.text
    installation.wait_until_gone(task["container"])
    wait_for(
        "a second attempt outranks the first",
        lambda: installation.task(submission_id, "i5")["fence"] == task["fence"] + 1,
    )
    again = installation.wait_for_task(submission_id, "i5", "running")
    assert again["attempts"][0]["outcome"] in {"cancelled", None}
    assert installation.run("cancel", submission_id).returncode == 0
    installation.wait_until_gone(again["container"])


def test_the_cancel_command_ends_the_container_the_run_and_the_submission(installation, training):
    submission_id, task = training

    assert installation.run("cancel", submission_id, "--reason", "wrong data").returncode == 0

    installation.wait_until_gone(task["container"])
    submission = installation.wait_for_submission(submission_id, "cancelled")
    assert "engineer" in submission["reason"]
    assert "wrong data" in submission["reason"]
    assert installation.wait_for_run_end(submission_id) == "failed"
    installation.wait_for_task(submission_id, "i5", "cancelled")
    wait_for("the slot is free", lambda: free_slots(installation) == 3)


def test_marking_the_run_failed_ends_what_it_runs(installation, training):
    submission_id, task = training

    installation.airflow.patch(
        f"/dags/touchstone/dagRuns/{submission_id}", json={"state": "failed"}
    ).raise_for_status()

    installation.wait_until_gone(task["container"])
    installation.wait_for_submission(submission_id, "cancelled")


def test_what_is_cancelled_while_it_waits_never_starts(installation):
    installation.set_slots("local", 0)
    try:
        submission_id = installation.submit(SLOW, "--intervals", "5,20")
        installation.wait_for_submission(submission_id, "queued")
        wait_for("both wait", lambda: count_waiting(installation, submission_id) == 2)

        assert installation.run("cancel", submission_id).returncode == 0

        installation.wait_for_submission(submission_id, "cancelled")
    finally:
        installation.set_slots("local", 3)
    time.sleep(5)
    for task_id in ("i5", "i20"):
        task = installation.task(submission_id, task_id)
        assert task["status"] == "cancelled"
        assert task["fence"] == 0


def test_a_retracted_submission_is_gone_from_work_but_not_from_the_record(installation, training):
    submission_id, task = training

    assert installation.run("retract", submission_id).returncode == 0

    installation.wait_until_gone(task["container"])
    assert installation.submission(submission_id)["status"] == "retracted"
    assert installation.run("retract", submission_id).returncode == 0
