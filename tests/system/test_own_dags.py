"""Somebody's own DAG runs programs on servers and in pods; none of Touchstone's DAG is in it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from system.installation import EXAMPLES, Installation
from touchstone.core.programs import build_program_ids
from waiting import wait_for

DAG = "touchstone_operators"
SLOW = 10_000
ENDED = {"success", "failed", "skipped", "upstream_failed", "removed"}
OUTLASTS = "the program outlasts what is done to it"


@dataclass
class OwnRun:
    """A run of the example, as whoever has written that DAG sees it."""

    installation: Installation
    run_id: str

    @property
    def path(self) -> str:
        return f"/dags/{DAG}/dagRuns/{self.run_id}"

    def instance(self, task_id: str) -> dict[str, Any]:
        answer = self.installation.airflow.get(f"{self.path}/taskInstances/{task_id}")
        return answer.json() if answer.status_code == 200 else {}

    def key(self, task_id: str) -> tuple[str, str]:
        return build_program_ids(DAG, self.run_id, task_id, -1)

    def record(self, task_id: str) -> dict[str, Any]:
        return self.installation.task(*self.key(task_id))

    def wait_for_record(self, task_id: str, *statuses: str) -> dict[str, Any]:
        wait_for(
            f"{task_id} is {statuses}",
            lambda: self.record(task_id).get("status") in statuses,
            unless=lambda: self.instance(task_id).get("state") in ENDED and self.tell(task_id),
            every=0.5,
        )
        return self.record(task_id)

    def wait_for_state(self, task_id: str, *states: str) -> None:
        wait_for(
            f"{task_id} is {states}",
            lambda: self.instance(task_id).get("state") in states,
            unless=lambda: self.instance(task_id).get("state") in ENDED and self.tell(task_id),
            every=0.5,
        )

    def tell(self, task_id: str) -> str:
        record = self.record(task_id)
        return f"{self.instance(task_id).get('state')}: {record.get('reason')}"

    def log(self, task_id: str, number: int = 1) -> str:
        answer = self.installation.airflow.get(
            f"{self.path}/taskInstances/{task_id}/logs/{number}",
            params={"full_content": "true"},
            headers={"Accept": "application/json"},
        )
        return answer.raise_for_status().text

    def mark(self, task_id: str, state: str) -> None:
        def try_it() -> bool:
            answer = self.installation.airflow.patch(
                f"{self.path}/taskInstances/{task_id}", json={"new_state": state}
            )
            return answer.status_code < 400

        wait_for(f"{task_id} is marked {state}", try_it, every=0.5)

    def clear(self, task_id: str) -> None:
        body = {
            "dry_run": False,
            "dag_run_id": self.run_id,
            "task_ids": [task_id],
            "only_failed": False,
            "reset_dag_runs": True,
        }

        def try_it() -> bool:
            path = f"/dags/{DAG}/clearTaskInstances"
            return self.installation.airflow.post(path, json=body).status_code < 400

        wait_for(f"{task_id} is cleared", try_it, every=0.5)


@pytest.fixture(scope="module", autouse=True)
def allowed(installation):
    """The example is on, and pods may be rented; as before afterwards."""
    wait_for(
        "the example is there",
        lambda: installation.airflow.get(f"/dags/{DAG}").status_code == 200,
        every=1,
    )
    wait_for("there is a pool for pods", lambda: installation.has_pool("runpod"))
    installation.airflow.patch(f"/dags/{DAG}", json={"is_paused": False}).raise_for_status()
    installation.set_slots("runpod", 2)
    yield
    installation.set_slots("runpod", 0)
    installation.airflow.patch(f"/dags/{DAG}", json={"is_paused": True})


@pytest.fixture
def begin(installation):
    """Begin a run; whatever is left of it ends with the test."""
    begun = []

    def start(*, epochs: int, is_server_skipped: bool = False) -> OwnRun:
        body = {"conf": {"epochs": epochs}, "logical_date": None}
        answer = installation.airflow.post(f"/dags/{DAG}/dagRuns", json=body)
        run = OwnRun(installation, answer.raise_for_status().json()["dag_run_id"])
        begun.append(run)
        if is_server_skipped:
            run.mark("on_server", "success")
        return run

    yield start
    for run in begun:
        installation.airflow.patch(run.path, json={"state": "failed"})
        for task_id in ("on_server", "in_pod"):
            what = f"nothing of {run.run_id} goes on"
            wait_for(what, lambda r=run, t=task_id: not is_at_work(r.record(t)), every=0.5)


def is_at_work(record: dict[str, Any]) -> bool:
    pod = record.get("pod") or {}
    is_open = record.get("status") in {"queued", "preparing", "running", "uploading"}
    is_rented = bool(pod) and not pod.get("gone_at")
    return (is_open and bool(record.get("attempt"))) or is_rented


def find_spans(runpod, record: dict[str, Any]) -> list[dict[str, Any]]:
    return [s for s in runpod.admin.get_ledger()["spans"] if record["submission_id"] in s["name"]]


def test_a_program_runs_on_a_server_and_then_one_in_a_pod(installation, runpod, begin):
    run = begin(epochs=2)
    run.wait_for_state("on_server", "success")
    run.wait_for_state("in_pod", "success")

    here, there = run.record("on_server"), run.record("in_pod")
    assert (here["server"], here["status"], here["attempts"]) == ("local", "success", [])
    assert (there["platform"], there["status"]) == ("runpod", "success")
    assert installation.read_result(here)["submission_id"] == here["submission_id"]
    assert (
        installation.read_result(here)["predictions_sha256"]
        == installation.read_result(there)["predictions_sha256"]
    )
    for task_id in ("on_server", "in_pod"):
        assert "| [runner] trainer: the image's own" in run.log(task_id)

    pod = there["pod"]
    bill = runpod.admin.get_ledger(pod["id"])
    assert bill["open"] == 0
    assert abs(Decimal(str(pod["usd"])) - Decimal(bill["usd"])) < Decimal("0.01")
    path = f"{run.path}/taskInstances/in_pod/xcomEntries/return_value"
    value = installation.airflow.get(path).raise_for_status().json()["value"]
    left = json.loads(value) if isinstance(value, str) else value
    # Our own count, until RunPod's bill is there.
    assert abs(Decimal(left["usd"]) - Decimal(bill["usd"])) < Decimal("0.01")
    assert f"/attempts/{there['submission_id']}/" in left["outputs"]


def test_a_program_that_is_marked_failed_is_ended_on_its_server(installation, begin):
    run = begin(epochs=SLOW)
    record = run.wait_for_record("on_server", "running")

    run.mark("on_server", "failed")

    installation.wait_until_gone(record["container"])
    wait_for("that is on record", lambda: run.record("on_server")["status"] == "cancelled")


def test_a_pod_is_given_back_when_its_program_is_marked_failed(runpod, begin):
    run = begin(epochs=SLOW, is_server_skipped=True)
    record = run.wait_for_record("in_pod", "running")

    run.mark("in_pod", "failed")

    # The end is on record once the pod is proven gone.
    wait_for("that is on record", lambda: run.record("in_pod")["status"] == "cancelled")
    assert run.record("in_pod")["pod"]["gone_at"]
    (span,) = find_spans(runpod, record)
    assert span["ended_at"] is not None


@pytest.mark.parametrize(
    # What is killed beside an attempt on a server is tried with trainings, too.
    "task_id",
    [pytest.param("on_server", marks=pytest.mark.campaign), "in_pod"],
)
def test_killed_parts_neither_interrupt_nor_double_a_program(installation, runpod, begin, task_id):
    run = begin(epochs=SLOW, is_server_skipped=task_id == "in_pod")
    before = run.wait_for_record(task_id, "running")
    for part in ("airflow-triggerer", "dispatcher", "airflow-scheduler"):
        pid = installation.kill(part)
        installation.wait_until_restarted(part, pid)

    after = run.record(task_id)
    assert (after["status"], after["fence"]) == ("running", before["fence"])
    assert run.instance(task_id)["state"] == "deferred"

    run.mark(task_id, "failed")
    wait_for("nothing of it goes on", lambda: not is_at_work(run.record(task_id)), every=0.5)
    if task_id == "in_pod":
        assert len(find_spans(runpod, before)) == 1


def test_a_cleared_program_begins_anew_and_the_old_one_is_ended(installation, begin):
    run = begin(epochs=SLOW)
    first = run.wait_for_record("on_server", "running")

    run.clear("on_server")

    wait_for(
        "another attempt runs",
        lambda: (
            (now := run.record("on_server"))["fence"] > first["fence"]
            and now["status"] == "running"
        ),
        every=0.5,
    )
    installation.wait_until_gone(first["container"])
    assert run.record("on_server")["run_id"] == run.run_id


def test_a_program_of_a_run_that_was_deleted_is_ended(installation, begin):
    run = begin(epochs=SLOW)
    record = run.wait_for_record("on_server", "running")

    # Airflow deletes no run that goes on; this one has no time to tell its trigger.
    installation.airflow.patch(run.path, json={"state": "failed"}).raise_for_status()
    installation.airflow.delete(run.path).raise_for_status()

    installation.wait_until_gone(record["container"])
    wait_for("that is on record", lambda: run.record("on_server")["status"] == "cancelled")


def test_a_program_and_a_training_never_share_a_slot(installation, begin):
    """The pool's only slot is the program's: a training waits until it is over."""
    installation.set_slots("local", 1)
    try:
        run = begin(epochs=SLOW)
        run.wait_for_record("on_server", "running")
        submission_id = installation.submit(
            EXAMPLES / "momentum", "--intervals", "5", "--platform", "on-prem",
            "--override", "training.epochs=2",
        )  # fmt: skip
        wait_for(
            "the training waits",
            lambda: installation.task(submission_id, "i5").get("status") == "queued",
            every=0.5,
        )
        time.sleep(5)  # ten rounds of placement
        assert not installation.task(submission_id, "i5").get("attempt")
        assert run.record("on_server")["status"] == "running", OUTLASTS

        run.mark("on_server", "failed")
        installation.wait_for_submission(submission_id, "success")
    finally:
        installation.set_slots("local", 3)
    assert installation.task(submission_id, "i5")["server"] == "local"
