"""Trainings in pods, as an engineer sees them: submitted, shown, paid, and not to be forgotten."""

from __future__ import annotations

import time
from decimal import Decimal

import pytest

from system.installation import EXAMPLES, SLOW
from waiting import wait_for

CENT = Decimal("0.01")
QUICK = ("--intervals", "5", "--seed", "3", "--override", "training.epochs=2")
PARTS = ["airflow-triggerer", "dispatcher", "airflow-scheduler", "airflow-api"]


@pytest.fixture(scope="module", autouse=True)
def pods(installation):
    """One slot on the server, and leave to rent; as before afterwards."""
    wait_for("there is a pool for pods", lambda: installation.has_pool("runpod"))
    installation.set_slots("local", 1)
    installation.set_slots("runpod", 2)
    yield
    installation.set_slots("runpod", 0)
    installation.set_slots("local", 3)


@pytest.fixture(scope="module")
def spilled(installation):
    """A training that found the only server full, and the one that it found there."""
    first = installation.submit(SLOW, "--intervals", "5", "--config", "fast.toml")
    busy = installation.wait_for_task(first, "i5", "running")
    done = installation.ask("submit", str(EXAMPLES / "momentum"), *QUICK, "--wait")
    assert installation.task(first, "i5")["exited_at"] is None, "the server was not full any more"
    installation.cancel_what_goes_on(first)
    return busy, installation.task(done["submission_id"], "i5")


def test_a_task_goes_to_a_pod_when_all_servers_are_full_and_not_before(spilled):
    busy, task = spilled
    assert (busy["platform"], busy["server"]) == ("on-prem", "local"), "a slot was free there"
    assert (task["platform"], task["status"]) == ("runpod", "success")


def test_the_pod_is_shown_and_costs_what_the_bill_says(installation, runpod, spilled):
    _, task = spilled
    pod = task["pod"]
    shown = installation.run("show", task["submission_id"]).stdout
    for fact in (pod["id"], "NVIDIA L4", "SECURE", pod["data_center"]):
        assert fact in shown
    bill = runpod.admin.get_ledger(pod["id"])
    assert bill["open"] == 0
    assert abs(Decimal(str(task["pod"]["usd"])) - Decimal(bill["usd"])) < CENT
    seconds = bill["spans"][0]["seconds"]
    time.sleep(2)
    assert runpod.admin.get_ledger(pod["id"])["spans"][0]["seconds"] == seconds


def test_a_pods_predictions_are_those_of_a_server(installation, spilled):
    done = installation.ask(
        "submit", str(EXAMPLES / "momentum"), *QUICK, "--platform", "on-prem", "--wait"
    )
    here = installation.task(done["submission_id"], "i5")
    assert here["platform"] == "on-prem"
    assert (
        installation.read_result(here)["predictions_sha256"]
        == installation.read_result(spilled[1])["predictions_sha256"]
    )


@pytest.mark.campaign(sample=999)  # each run has a death out of test_pod_deaths
def test_killed_parts_neither_interrupt_nor_double_a_pod(installation, runpod):
    submission_id = installation.submit(
        SLOW, "--intervals", "5", "--config", "fast.toml", "--platform", "runpod"
    )
    before = installation.wait_for_task(submission_id, "i5", "running")
    for part in PARTS:
        time.sleep(1)
        pid = installation.kill(part)
        installation.wait_until_restarted(part, pid)
    assert installation.task(submission_id, "i5")["exited_at"] is None, "killed too late"

    installation.wait_for_submission(submission_id, "success", "error")
    after = installation.task(submission_id, "i5")
    assert after["status"] == "success", after["reason"]
    assert (after["fence"], after["attempts"]) == (before["fence"], [])
    spans = [s for s in runpod.admin.get_ledger()["spans"] if submission_id in s["name"]]
    assert [span["pod_id"] for span in spans] == [after["pod"]["id"]]
    assert spans[0]["ended_at"] is not None


@pytest.fixture
def no_server_validates(installation):
    """As where there is no server: validations go to pods."""
    installation.set_slots("local_validation", 0)
    yield
    installation.set_slots("local_validation", 1)


@pytest.mark.parametrize(
    ("module", "status", "words"),
    [
        pytest.param("momentum", "accepted", "", marks=pytest.mark.campaign(sample=999)),
        ("broken/look_ahead_backfill", "rejected", "look-ahead"),
    ],
)
def test_without_a_server_a_module_is_judged_in_a_cpu_pod(
    installation, runpod, no_server_validates, module, status, words
):
    submission_id = installation.submit(EXAMPLES / module)
    found = installation.wait_for_submission(submission_id, "accepted", "rejected", "error")
    assert (found["status"], words in (found.get("reason") or "")) == (status, True)

    task = installation.task(submission_id, "validation")
    pod, bill = task["pod"], runpod.admin.get_ledger(task["pod"]["id"])
    assert (task["platform"], pod["cpu"], pod["gpu"]) == ("runpod", "cpu3c", None)
    assert bill["open"] == 0
    assert abs(Decimal(str(pod["usd"])) - Decimal(bill["usd"])) < CENT
    shown = installation.run("show", submission_id).stdout
    assert "CPU cpu3c, 4 vCPU" in shown
    assert "None" not in shown
