"""What the host of a pod may answer: nothing of it is believed, and its pod is given back."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from security.attacks import Pulse, User, sample_all_but
from system.installation import EXAMPLES
from waiting import wait_for

KINDS = (*("flood", "stderr", "escape", "deep", "number", "surrogate", "crowd", "nonsense"),)


@pytest.fixture(scope="module", autouse=True)
def pods(isolated):
    wait_for("there is a pool for pods", lambda: isolated.has_pool("runpod"))
    isolated.set_slots("runpod", len(KINDS))
    yield
    isolated.set_slots("runpod", 0)


def find_kinds(session):
    """Return the kinds of hosts whose tests are run: CI runs a sample of them."""
    items = [item for item in session.items if {"lied_to", "kind"} <= {*item.fixturenames}]
    return [item.callspec.params["kind"] for item in items]


@pytest.fixture(scope="module")
def lied_to(isolated, runpod, request):
    """A submission to each kind of host, all at once; each is cancelled once it is over."""
    admin = User(isolated, "admin")
    kinds = find_kinds(request.session)
    assert kinds
    names = {kind: f"pod-{kind}-{uuid.uuid4().hex[:4]}" for kind in kinds}
    with Pulse(isolated, admin.http.headers["Authorization"]) as pulse:
        for name in names.values():
            isolated.submit(
                *(EXAMPLES / "momentum", "--id", name, "--intervals", "1"),
                *("--platform", "runpod", "--override", "training.epochs=2"),
            )
        ends = {}

        def find_ends():
            for kind, name in names.items():
                task = isolated.task(name, "i1")
                first = next(iter(task.get("attempts") or ()), task)
                if kind not in ends and first.get("outcome"):
                    ends[kind] = first
                    isolated.run("cancel", name)
            return len(ends) == len(names)

        wait_for("each first attempt has ended", find_ends)
        for name in names.values():
            isolated.wait_for_submission(name, "cancelled", "error", "success")
        wait_for("every pod is given back", lambda: runpod.admin.list_pods() == [])
    return pulse, names, ends


def test_nobody_waits_for_a_host_that_lies(lied_to):
    lied_to[0].check()


@pytest.mark.parametrize("kind", sample_all_but(KINDS, "escape"))
def test_an_attempt_on_a_host_that_lies_ends_with_a_reason_and_without_a_pod(
    isolated, runpod, lied_to, unharmed, kind
):
    _, names, ends = lied_to
    assert ends[kind]["outcome"] != "succeeded"
    assert ends[kind]["reason"]
    spans = [s for s in runpod.admin.get_ledger()["spans"] if names[kind] in s["name"]]
    assert spans
    assert all(span["ended_at"] is not None for span in spans)


def test_no_file_is_written_where_a_host_wants_it(lied_to):
    assert not Path("/etc/cron.d/owned").exists()
    assert not Path("/tmp/touchstone-owned").exists()


def test_what_nobody_waits_for_is_ended_also_when_its_dag_is_paused(isolated, runpod):
    """The reaper is no DAG's: an admin's pause, or a user's, costs nothing."""
    from touchstone.core.pods import PodOrder
    from touchstone.hooks.runpod.api import Account
    from touchstone.hooks.runpod.rest import RestPodApi

    isolated.airflow.patch(
        "/dags/touchstone_housekeeping", json={"is_paused": True}
    ).raise_for_status()
    name = f"touchstone-{isolated.settings.env}-forgotten-i1-1-1"
    with RestPodApi(Account(api_key="rpa_test", url=runpod.url)) as api:
        pod = api.create_pod(
            PodOrder(name=name, image="touchstone-elnigma:local", gpu="NVIDIA L4", env={})
        )

    wait_for(
        "the forgotten pod is ended",
        lambda: pod.id not in {found["id"] for found in runpod.admin.list_pods()},
    )
