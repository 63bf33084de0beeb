"""Each part killed at each step of a pod's life: one result, one pod at a time, none left over."""

from __future__ import annotations

import contextlib
import os
import signal
from datetime import datetime
from itertools import pairwise

import psutil
import pytest

from system.installation import EXAMPLES
from touchstone.core.pods import PodOrder
from touchstone.hooks.runpod.api import Account
from touchstone.hooks.runpod.rest import RestPodApi
from waiting import wait_for

QUICK = ("--intervals", "5", "--config", "fast.toml", "--override", "training.epochs=2")
WORKER = "worker"
PARTS = ["airflow-triggerer", "dispatcher", "airflow-scheduler", "airflow-api", WORKER]
STEPS = {
    "before_intent": lambda task: task.get("task_id"),
    "intent": lambda task: task.get("intent_at"),
    "ordered": lambda task: task.get("pod"),
    "id_stored": lambda task: (task.get("pod") or {}).get("id"),
    "boarded": lambda task: (task.get("pod") or {}).get("login_at"),
    "running": lambda task: task.get("running_at"),
    "exited": lambda task: task.get("exited_at"),
    "uploaded": lambda task: task.get("uploaded_at"),
    "terminating": lambda task: (task.get("pod") or {}).get("ending_at"),
    "gone": lambda task: (task.get("pod") or {}).get("gone_at"),
}
FAULTS = {
    "create.delay": {"seconds": 2},
    "boot.slow_pull": {"seconds": 2},
    "terminate.delayed": {"seconds": 3},
}
"""What makes the steps long enough to be hit."""
WORKER_STEPS = {"before_intent", "intent", "gone"}
"""Between them no worker has to do with a pod."""
SAMPLE, SELDOM = 34, 999
"""One in so many is in every run; Airflow takes two minutes to notice a worker's end."""
CASES = [
    pytest.param(
        part, step, marks=pytest.mark.campaign(sample=SELDOM if part == WORKER else SAMPLE)
    )
    for part in PARTS
    for step in STEPS
    if part != WORKER or step in WORKER_STEPS
]


@pytest.fixture(scope="module", autouse=True)
def pods(installation):
    """Leave to rent; as before afterwards."""
    wait_for("there is a pool for pods", lambda: installation.has_pool("runpod"))
    installation.set_slots("runpod", 2)
    yield
    installation.set_slots("runpod", 0)


@pytest.fixture(scope="module")
def foreign_pod(installation, runpod):
    """Somebody else's pod of the same account."""
    image = installation.settings.trainer_image
    with RestPodApi(Account(api_key="rpa_test", url=runpod.url)) as api:
        pod = api.create_pod(PodOrder(name="notebook", image=image, gpu="NVIDIA L4"))
        yield pod
        api.terminate_pod(pod.id)


@pytest.mark.parametrize(("part", "step"), CASES)
def test_a_part_dies_and_the_pod_is_neither_lost_nor_doubled(
    installation, runpod, foreign_pod, part, step
):
    scheduler = installation.part("airflow-scheduler")["pid"]
    pid = None if part == WORKER else installation.part(part)["pid"]
    submission_id = installation.submit(EXAMPLES / "momentum", *QUICK, "--platform", "runpod")
    for kind, params in FAULTS.items():
        runpod.admin.add_fault(kind, params=params, match={"name": f"*{submission_id}*"})

    wait_for(step, lambda: STEPS[step](installation.task(submission_id, "i5")), every=0.03)
    if pid is None:
        pid = wait_for("a task runs", lambda: _find_worker(scheduler), every=0.03)
        os.kill(pid, signal.SIGKILL)
    else:
        os.kill(pid, signal.SIGKILL)
        installation.wait_until_restarted(part, pid)

    installation.wait_for_submission(submission_id, "success", "error")
    task = installation.task(submission_id, "i5")
    assert task["status"] == "success", task["reason"]
    spans = [s for s in runpod.admin.get_ledger()["spans"] if submission_id in s["name"]]
    assert all(span["ended_at"] for span in spans), "a pod is billed on"
    assert _count_overlaps(spans) == 0, "two pods at a time for one task"
    alive = [pod["name"] for pod in runpod.admin.list_pods()]
    assert [name for name in alive if submission_id in name] == []
    assert foreign_pod.name in alive
    assert len(installation.records.list_evaluations(submission_id)) == 2


def _find_worker(scheduler):
    """Return a process that runs a task, by the title that it has while it does; or ``None``."""
    for child in psutil.Process(scheduler).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            words = " ".join(child.cmdline())
            if words.startswith("airflow worker -- ") and "LocalExecutor" not in words:
                return child.pid
    return None


def _count_overlaps(spans):
    lives = sorted((_read_time(span["started_at"]), _read_time(span["ended_at"])) for span in spans)
    return sum(after[0] < before[1] for before, after in pairwise(lives))


def _read_time(text):
    return datetime.fromisoformat(text)
