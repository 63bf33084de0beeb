"""What is on record of an attempt's pod, step by step."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from fakes.tasks import build_spec, build_task, with_fields
from touchstone.core import attempts, phases
from touchstone.core.offers import Candidate
from touchstone.core.placement_inputs import (
    FIRST_BACKOFF,
    LONGEST_BACKOFF,
    find_avoided,
    find_backoff,
)
from touchstone.core.pod_attempts import (
    Problem,
    close_attempt,
    describe_pod,
    find_pod,
    may_rent,
    note_bill,
    note_ending,
    note_gone,
    note_login,
    note_order,
    note_pod,
    note_refusal,
)
from touchstone.core.pods import Cloud, Pod, PodStatus
from touchstone.core.records.tasks import PodRecord
from touchstone.core.retries import WaitEnd, find_end
from touchstone.core.schedule import Platform
from touchstone_agent.protocol.messages import AttemptPhase, PhaseChanged

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
CANDIDATE = Candidate(
    gpu="NVIDIA GeForce RTX 4090",
    cloud=Cloud.SECURE,
    data_center=None,
    price_per_hour=Decimal("0.69"),
    memory_gb=24,
)
GOOD = {"outcome": "succeeded", "class": "ok", "exit_code": 0}


def make_task(*, tries=1, kind="training"):
    record = build_task(build_spec(kind=kind))
    for number in range(1, tries + 1):
        record = claim(record, number)
    return record


def claim(record, attempt):
    return attempts.claim_attempt(
        record,
        attempt=attempt,
        server="runpod",
        container_of=lambda ref: ref.container_name("dev"),
        now=NOW,
        platform=Platform.RUNPOD,
    )


def order(record, fence=1):
    noted = note_order(record, CANDIDATE, image="pod:1", fence=fence, life_seconds=3600, now=NOW)
    return noted or record


def make_pod(pod_id="p-1", **changes):
    fields = {
        "name": "touchstone-dev-s-1-i5-1-1",
        "status": PodStatus.RUNNING,
        "image": "trainer",
        "gpu": "NVIDIA GeForce RTX 4090",
        "gpu_count": 1,
        "cloud": Cloud.SECURE,
        "data_center": "EU-RO-1",
        "price_per_hour": Decimal("0.7"),
        "created_at": NOW,
    }
    return Pod(**{"id": pod_id} | fields | changes)


def rent(record, fence=1):
    record = order(record, fence)
    return note_pod(record, make_pod(), fence=fence, now=NOW) or record


def exit_with(record, code, outcome="failed"):
    verdict = GOOD if code == 0 else {"outcome": outcome, "class": "config", "reason": "no key"}
    event = PhaseChanged(
        ref=record.ref,
        phase=AttemptPhase.EXITED,
        at=NOW,
        details={"exit_code": code, "verdict": verdict, "files": []},
    )
    return phases.apply_phase(record, event, now=NOW) or record


def release_pod(record, fence=1, problem=None):
    record = note_ending(record, fence=fence, now=NOW, problem=problem) or record
    gone = note_gone(record, fence=fence, seconds=60, usd=Decimal("0.0115"), now=NOW)
    record = gone or record
    return close_attempt(record, fence=fence, now=NOW) or record


def test_an_order_is_on_record_before_it_is_sent():
    record = order(make_task())

    pod = find_pod(record, 1)
    assert (pod.name, pod.id) == ("touchstone-dev-s-1-i5-1-1", None)
    assert (pod.gpu, pod.price_per_hour) == ("NVIDIA GeForce RTX 4090", Decimal("0.69"))
    assert pod.is_rented


CANCEL = {"through_fence": 1, "by": "ann", "at": NOW.isoformat(), "reason": "cancelled by ann"}


@pytest.mark.parametrize("change", [{"cancel": CANCEL}, {"fence": 2}])
def test_nothing_is_ordered_for_what_nobody_wants_any_more(change):
    record = with_fields(make_task(), **change)

    assert not may_rent(record, 1)
    assert note_order(record, CANDIDATE, image="i", fence=1, life_seconds=1, now=NOW) is None


def test_nothing_is_ordered_where_another_driver_was_faster_and_no_refusal_ends_its_pod():
    record = rent(make_task())

    assert note_order(record, CANDIDATE, image="i", fence=1, life_seconds=1, now=NOW) is None
    refused = Problem("capacity", "no pod to be had")
    assert note_refusal(record, refused, fence=1, now=NOW) is None


def test_a_refused_order_is_over():
    refused = Problem("capacity", "no pod to be had")
    changed = note_refusal(order(make_task()), refused, fence=1, now=NOW)
    assert changed.newest.pod.problem.dump() == {"class": "capacity", "reason": "no pod to be had"}


def test_the_first_pod_of_an_order_is_the_one_and_its_own_price_holds():
    record = rent(make_task())

    assert note_pod(record, make_pod("p-2"), fence=1, now=NOW) is None
    pod = find_pod(record, 1)
    assert (pod.id, pod.price_per_hour, pod.data_center) == ("p-1", Decimal("0.7"), "EU-RO-1")


def test_a_pod_that_comes_after_its_order_was_given_up_is_not_taken():
    record = release_pod(order(make_task()), problem=Problem("order", "no answer"))

    assert note_pod(record, make_pod(), fence=1, now=NOW) is None


def test_a_login_is_written_once_until_it_leads_elsewhere():
    record = rent(make_task())
    login = {"address": "root@127.0.0.1:2201", "boot_id": "b", "fence": 1}
    record = note_login(record, **login, now=NOW)

    assert note_login(record, **login, now=NOW) is None
    moved = note_login(record, **login | {"address": "root@127.0.0.1:2202"}, now=NOW)
    assert moved.newest.pod.login_at == record.newest.pod.login_at


@pytest.mark.parametrize(("code", "end"), [(0, WaitEnd.SUCCEED), (2, WaitEnd.FAIL)])
def test_the_airflow_task_goes_on_until_the_pod_is_proven_gone(code, end):
    """A pod is billed until then, and holds its slot."""
    record = exit_with(rent(make_task()), code)
    assert find_end(record, fence=1, run_id="s-1") is None

    record = release_pod(record)

    assert find_end(record, fence=1, run_id="s-1") is end
    assert record.newest.pod.usd == Decimal("0.0115")


def test_a_training_whose_pod_fails_is_tried_again_with_the_pods_reason():
    record = release_pod(rent(make_task()), problem=Problem("host", "the pod has no GPU"))

    assert (record.status, record.newest.outcome) == ("error", "failed(infrastructure)")
    assert (record.newest.failure_class, record.newest.reason) == ("host", "the pod has no GPU")
    assert find_end(record, fence=1, run_id="s-1") is WaitEnd.RETRY
    assert find_avoided(record) == {"runpod"}
    assert find_backoff(record) is None


def test_an_attempt_that_was_cancelled_ends_so_whatever_became_of_its_pod():
    record = with_fields(rent(make_task()), cancel=CANCEL)
    record = release_pod(record, problem=Problem("host", "the pod has no GPU"))

    assert (record.status, record.newest.reason) == ("cancelled", "cancelled by ann")
    assert find_end(record, fence=1, run_id="s-1") is WaitEnd.FAIL


def test_files_lost_with_a_pod_after_a_good_end_are_a_failure_to_be_mended():
    record = exit_with(rent(make_task()), 0)
    record = release_pod(record, problem=Problem("gone", "the pod vanished"))

    assert record.newest.outcome == "failed(infrastructure)"
    assert find_end(record, fence=1, run_id="s-1") is WaitEnd.RETRY


def test_a_refusal_says_nothing_against_runpod_and_is_not_repeated_at_once():
    record = release_pod(order(make_task()), problem=Problem("capacity", "nothing is free"))

    assert record.newest.phase == "rejected"
    assert find_avoided(record) == frozenset()
    assert find_backoff(record).until == NOW + FIRST_BACKOFF
    assert find_backoff(record).reason == "nothing is free"


def test_each_refusal_in_a_row_is_waited_for_twice_as_long_up_to_a_limit():
    record, holds = make_task(tries=0), []
    for number in range(1, 10):
        record = claim(record, number)
        record = release_pod(order(record, number), number, Problem("capacity", "nothing"))
        holds.append(find_backoff(record).until - NOW)

    assert holds[:3] == [FIRST_BACKOFF, 2 * FIRST_BACKOFF, 4 * FIRST_BACKOFF]
    assert holds[-1] == LONGEST_BACKOFF


def test_without_any_pod_the_attempt_ends_by_the_problem_alone():
    record = make_task()
    record = close_attempt(record, fence=1, now=NOW, problem=Problem("budget", "over it"))

    assert (record.newest.failure_class, record.newest.reason) == ("budget", "over it")
    assert find_end(record, fence=1, run_id="s-1") is WaitEnd.RETRY


def test_the_pod_of_an_older_attempt_stays_on_record_until_it_is_gone():
    record = rent(make_task())
    record = claim(record, 2)
    record = with_fields(record, status="error", outcome="failed(user)")

    assert record.is_at_work
    assert find_pod(record, 1).id == "p-1"
    assert record.newest.pod is None
    record = note_gone(record, fence=1, seconds=60, usd=Decimal("0.01"), now=NOW)
    assert find_pod(record, 1).usd == Decimal("0.01")
    assert close_attempt(record, fence=1, now=NOW) is None
    assert not record.is_at_work


def test_gone_is_gone_and_costs_what_was_counted_first():
    record = release_pod(rent(make_task()))

    assert note_gone(record, fence=1, seconds=99, usd=Decimal(9), now=NOW) is None
    assert note_ending(record, fence=1, now=NOW + timedelta(hours=1)) is None


def test_runpods_own_bill_takes_the_place_of_our_count_once():
    record = release_pod(rent(make_task()))
    record = note_bill(record, fence=1, usd=Decimal("0.0120"))

    assert (record.newest.pod.usd, record.newest.pod.is_billed) == (Decimal("0.0120"), True)
    assert note_bill(record, fence=1, usd=Decimal("0.0120")) is None


# --- validations in CPU pods --------------------------------------------------------------------

CPU = Candidate(
    gpu=None,
    cpu="cpu3c",
    vcpus=4,
    cloud=Cloud.SECURE,
    data_center=None,
    price_per_hour=Decimal("0.12"),
    memory_gb=8,
)


def rent_cpu():
    record = make_task(kind="validation")
    record = note_order(record, CPU, image="pod:1", fence=1, life_seconds=3600, now=NOW)
    pod = make_pod(gpu=None, gpu_count=0, price_per_hour=Decimal("0.12"))
    return note_pod(record, pod, fence=1, now=NOW)


def test_a_cpu_pod_is_on_record_by_its_flavor_and_told_so():
    pod = find_pod(rent_cpu(), 1)

    assert (pod.gpu, pod.cpu, pod.vcpus) == (None, "cpu3c", 4)
    assert describe_pod(pod) == "CPU cpu3c, 4 vCPU"


def test_a_pod_of_the_version_before_is_told_by_its_gpu():
    stored = find_pod(rent(make_task()), 1).dump()
    del stored["cpu"], stored["vcpus"]
    pod = PodRecord.load(stored)

    assert describe_pod(pod) == "NVIDIA GeForce RTX 4090"


@pytest.mark.parametrize(("code", "status"), [(0, "success"), (3, "error")])
def test_a_validation_in_a_pod_ends_well_with_any_verdict_once_its_pod_is_gone(code, status):
    record = exit_with(rent_cpu(), code)
    assert find_end(record, fence=1, run_id="s-1") is None

    record = release_pod(record)

    assert record.status == status
    assert find_end(record, fence=1, run_id="s-1") is WaitEnd.SUCCEED


def test_a_validation_whose_pod_fails_is_tried_again():
    record = release_pod(rent_cpu(), problem=Problem("boot", "did not boot within 1200 s"))

    assert find_end(record, fence=1, run_id="s-1") is WaitEnd.RETRY
