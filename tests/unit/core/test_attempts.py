"""How a task's record changes, event by event."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.tasks import build_attempt, build_spec, with_fields
from touchstone.core import attempts, phases, retries
from touchstone.core.records.tasks import AttemptPlacement
from touchstone.core.retries import WaitEnd
from touchstone.core.states import TASK_TERMINAL, TaskStatus
from touchstone_agent.protocol.messages import (
    AttemptPhase,
    AttemptRef,
    Limits,
    PhaseChanged,
    Progress,
    Refusal,
)
from touchstone_agent.protocol.words import MAX_LINE

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
POD = {"name": "n", "ordered_at": NOW.isoformat(), "price_per_hour": "0.5"}
GOOD = {"outcome": "succeeded", "class": "ok", "exit_code": 0}


def make_spec(kind="training", **changes):
    return build_spec(kind=kind, **changes)


def make_task(kind="training", *, attempt=1, gpus=0, image_cuda=None, **changes):
    spec = make_spec(kind, image_cuda=image_cuda)
    record = attempts.new_task(spec, run_id="s-1", map_index=0, now=NOW)
    for number in range(1, attempt + 1):
        record = claim(record, number, gpus=gpus)
    return with_fields(record, **changes)


def claim(record, attempt, max_tries=20, gpus=0):
    return attempts.claim_attempt(
        record,
        attempt=attempt,
        server="local",
        container_of=lambda ref: ref.container_name("dev"),
        now=NOW,
        gpus=gpus,
        placement=AttemptPlacement(server="local", try_number=attempt, max_tries=max_tries),
    )


def make_ref(fence=1, attempt=1):
    return AttemptRef(submission_id="s-1", task_id="i5", attempt=attempt, fence=fence)


def find_end(record, fence=1, run_id="s-1"):
    return retries.find_end(record, fence=fence, run_id=run_id)


def phase(name, fence=1, reason=None, **details):
    return PhaseChanged(
        ref=make_ref(fence), phase=AttemptPhase(name), at=NOW, reason=reason, details=details
    )


def tell(record, *events):
    for event in events:
        record = phases.apply_phase(record, event, now=NOW) or record
    return record


def exited(exit_code=0, verdict=None, **details):
    return phase("exited", exit_code=exit_code, verdict=verdict or GOOD, files=[], **details)


def failed(exit_code, failure_class, reason):
    return exited(exit_code, {"outcome": "failed", "class": failure_class, "reason": reason})


def test_a_claim_names_the_container_before_anything_is_sent():
    task = make_task()

    assert task.newest.container == "touchstone-dev-s-1-i5-1-1"
    assert task.newest.intent_at == NOW
    assert task.status == TaskStatus.QUEUED


def test_each_claim_outranks_the_last_and_remembers_it():
    task = make_task()
    task = tell(task, phase("accepted"), phase("lost", reason="gone"))
    task = claim(task, 2)

    assert task.fence == 2
    assert task.newest.reason is None
    assert [(item.fence, item.reason) for item in task.past] == [(1, "gone")]


def test_a_training_that_exits_well_is_uploading_and_its_wait_is_over():
    task = tell(make_task(), phase("accepted"), phase("preparing"), phase("running"))
    assert find_end(task) is None

    task = tell(task, exited())

    assert task.status == TaskStatus.UPLOADING
    assert find_end(task) is WaitEnd.SUCCEED


def test_a_validation_has_its_verdict_when_the_container_has_exited():
    task = tell(make_task("validation"), phase("running"), exited())

    assert task.status == TaskStatus.SUCCESS
    assert find_end(task) is WaitEnd.SUCCEED


def test_a_validation_that_finds_a_fault_ends_well_for_airflow():
    task = tell(make_task("validation"), failed(3, "submission", "no build_features"))

    assert task.status == TaskStatus.ERROR
    assert task.newest.reason == "no build_features"
    assert find_end(task) is WaitEnd.SUCCEED
    assert retries.is_fulfilled(task), "a verdict is what it was for"
    assert not retries.is_fulfilled(with_fields(task, kind="training"))


def test_a_validation_that_needs_too_much_memory_is_the_submitters_fault():
    task = tell(make_task("validation"), failed(137, "oom", "out of memory"))

    assert task.newest.outcome == "failed(user)"
    assert find_end(task) is WaitEnd.SUCCEED


@pytest.mark.parametrize(
    ("event", "end"),
    [
        (failed(2, "config", "bad key"), WaitEnd.FAIL),
        (failed(3, "submission", "bad shape"), WaitEnd.FAIL),
        (failed(4, "diverged", "NaN loss"), WaitEnd.FAIL),
        (failed(10, "data", "no data"), WaitEnd.RETRY),
        (failed(75, "temporary", "busy"), WaitEnd.RETRY),
        (failed(137, "oom", "out of memory"), WaitEnd.RETRY),
        (failed(1, "unknown", "boom"), WaitEnd.RETRY),
        (exited(None, {"outcome": "failed"}), WaitEnd.RETRY),
        (exited(0, {"outcome": "failed", "class": "contract"}), WaitEnd.FAIL),
        (phase("rejected", reason="full"), WaitEnd.RETRY),
        (phase("lost", reason="gone"), WaitEnd.RETRY),
        (phase("cancelled", reason="asked"), WaitEnd.FAIL),
    ],
)
def test_a_training_ends_by_whether_another_attempt_may_mend_it(event, end):
    task = tell(make_task(), event)

    assert find_end(task) is end
    assert TaskStatus(task.status) in TASK_TERMINAL


def test_an_event_of_an_outranked_attempt_changes_nothing():
    task = make_task(attempt=2)

    assert phases.apply_phase(task, phase("exited", fence=1), now=NOW) is None
    assert find_end(task) is WaitEnd.RETRY


def test_a_repeated_or_late_event_changes_nothing():
    task = tell(make_task(), phase("running"))

    assert phases.apply_phase(task, phase("running"), now=NOW) is None
    assert phases.apply_phase(task, phase("preparing"), now=NOW) is None


def test_uploads_may_be_reported_after_the_task_has_failed():
    task = tell(make_task(), failed(3, "submission", "bad"), phase("uploaded"))

    assert task.newest.uploaded_at == NOW
    assert task.status == TaskStatus.ERROR


def test_a_cancel_before_the_first_attempt_ends_the_task_at_once():
    task = make_task(attempt=0)
    task = phases.request_cancel(task, by="ann", reason="enough", now=NOW)

    assert task.status == TaskStatus.CANCELLED


def test_a_cancel_of_a_running_attempt_is_an_intent_until_the_agent_answers():
    task = tell(make_task(), phase("running"))
    task = phases.request_cancel(task, by="ann", reason="enough", now=NOW)
    assert task.status == TaskStatus.RUNNING
    assert phases.request_cancel(task, by="bob", reason="too", now=NOW) is None

    task = tell(task, phase("cancelled", reason="enough"))

    assert task.status == TaskStatus.CANCELLED
    assert phases.request_cancel(task, by="ann", reason="again", now=NOW) is None


def test_a_container_that_was_stopped_by_a_cancel_counts_as_cancelled():
    task = tell(make_task(), phase("running"))
    task = phases.request_cancel(task, by="ann", reason="enough", now=NOW)

    task = tell(task, failed(143, "aborted", "aborted"))

    assert task.status == TaskStatus.CANCELLED
    assert find_end(task) is WaitEnd.FAIL


def test_a_cancel_that_came_too_late_leaves_the_result():
    task = tell(make_task(), phase("running"))
    task = phases.request_cancel(task, by="ann", reason="enough", now=NOW)

    assert tell(task, exited()).status == TaskStatus.UPLOADING


def test_a_new_attempt_is_not_touched_by_an_older_cancel():
    task = tell(make_task(), phase("running"))
    task = phases.request_cancel(task, by="ann", reason="enough", now=NOW)
    task = claim(task, 2)

    assert task.newest.cancel is None


def test_a_silent_server_loses_what_it_ran_but_not_what_it_only_uploads():
    running = tell(make_task(), phase("running"))
    uploading = tell(running, exited())

    def lose(record, **changes):
        return phases.declare_lost(
            record, **({"fence": 1, "reason": "silent", "now": NOW} | changes)
        )

    assert lose(running).status == TaskStatus.LOST
    assert lose(uploading) is None
    assert lose(uploading, is_upload_lost=True).status == TaskStatus.LOST
    assert lose(running, fence=2) is None


def test_only_a_running_attempt_makes_progress():
    event = Progress(ref=make_ref(), at=NOW, phase="fit", percent=40, eta_seconds=9)
    running = tell(make_task(), phase("running"))

    assert phases.apply_progress(make_task(), event, now=NOW) is None
    assert phases.apply_progress(running, event, now=NOW).newest.percent == 40


def test_while_it_is_prepared_its_progress_is_that_of_its_image():
    event = Progress(ref=make_ref(), at=NOW, phase="layer 3 of 7", percent=40)
    task = tell(make_task(), phase("accepted"))

    task = phases.apply_progress(task, event, now=NOW)
    assert (task.status, task.newest.percent, task.newest.progress_phase) == (
        TaskStatus.PREPARING,
        40,
        "layer 3 of 7",
    )
    task = tell(task, phase("preparing"), phase("running"))
    assert (task.newest.percent, task.newest.progress_phase) == (0, None)


def test_a_later_run_takes_a_task_over_with_its_fence():
    task = tell(make_task(), exited())
    task = attempts.renew_task(task, make_spec(), run_id="s-1--2", map_index=1)

    assert (task.run_id, task.newest.number, task.fence) == ("s-1--2", 0, 2)
    assert claim(task, 1).fence == 3
    assert phases.apply_phase(task, phase("cancelled"), now=NOW) is None
    assert find_end(task) is WaitEnd.FAIL


def test_an_exit_that_was_never_heard_of_is_told_again_with_the_uploads():
    task = tell(make_task(), phase("running"))
    file = {"path": "x", "sha256": "0" * 64, "size": 1}
    task = tell(task, phase("uploaded", exit_code=0, verdict=GOOD, files=[file]))

    assert task.status == TaskStatus.UPLOADING
    assert [each.dump() for each in task.newest.files] == [file]
    assert find_end(task) is WaitEnd.SUCCEED


def test_what_is_uploaded_cannot_be_lost_any_more():
    task = tell(make_task(), exited(), phase("uploaded"), phase("lost", reason="forgotten"))

    assert task.status == TaskStatus.UPLOADING


def attempt_until_it_stops(event, limit=10, kind="training", gpus=0):
    task, number = make_task(kind, gpus=gpus), 1
    while number < limit:
        task = tell(
            task, phase(event.phase.value, fence=number, reason=event.reason, **event.details)
        )
        if find_end(task, fence=number) is not WaitEnd.RETRY:
            return number
        number += 1
        task = claim(task, number, gpus=gpus)
    return number


def test_users_failures_stop_at_the_third_and_memory_at_the_second():
    assert attempt_until_it_stops(failed(1, "unknown", "boom")) == 3
    assert attempt_until_it_stops(failed(137, "oom", "out of memory")) == 2


def test_a_validation_that_cannot_be_carried_out_is_given_up_at_the_third():
    lost = phase("lost", reason="gone")
    assert attempt_until_it_stops(lost, kind="validation") == 3
    assert attempt_until_it_stops(lost) == 10, "a training goes on: it is no fault of its own"


def test_a_pod_that_was_not_to_be_had_is_no_attempt_of_a_validation():
    refused = {"outcome": "failed(infrastructure)", "failure_class": "capacity"}
    task = make_task("validation", attempt=5, **refused, status="error", is_retriable=True)
    past = tuple(build_attempt(**(item.dump() | refused)) for item in task.past)
    task = task.change(past=past)

    assert find_end(task, fence=5) is WaitEnd.RETRY


def test_who_clears_a_task_gives_it_a_new_ledger():
    failure, task = failed(1, "unknown", "boom"), make_task()
    for number in (1, 2):
        task = tell(task, phase("exited", fence=number, **failure.details))
        task = claim(task, number + 1, max_tries=20 if number < 2 else 23)
    task = tell(task, phase("exited", fence=3, **failure.details))

    assert find_end(task, fence=3) is WaitEnd.RETRY


@pytest.mark.parametrize(
    ("events", "instance", "end"),
    [
        ([failed(2, "config", "bad")], {}, WaitEnd.FAIL),
        ([exited()], {}, WaitEnd.SUCCEED),
        ([phase("cancelled", reason="asked")], {}, WaitEnd.FAIL),
        ([failed(75, "temporary", "elsewhere")], {}, None),
        ([phase("running")], {}, None),
        ([], {}, None),
        ([failed(2, "config", "bad")], {"attempt": 1}, None),
        ([failed(2, "config", "bad")], {"max_tries": 21}, None),
        ([failed(2, "config", "bad")], {"run_id": "s-1--2"}, None),
    ],
)
def test_a_try_has_nothing_left_to_do_after_an_end_that_nobody_has_cleared(events, instance, end):
    task = tell(make_task(), *events)

    of_try = {"run_id": "s-1", "attempt": 2, "max_tries": 20} | instance
    assert retries.find_settled(task, **of_try) is end


def test_a_task_that_never_had_an_attempt_is_not_settled():
    task = make_task(attempt=0)

    assert retries.find_settled(task, run_id="s-1", attempt=1, max_tries=20) is None


def test_what_the_user_cannot_help_never_counts():
    assert attempt_until_it_stops(phase("rejected", reason="full")) == 10
    assert attempt_until_it_stops(phase("lost", reason="gone")) == 10


@pytest.mark.parametrize("number", [1e200, 3e-180, float("inf"), float("nan"), 10**130])
def test_a_number_that_no_record_can_hold_is_left_out_of_the_progress(number):
    event = Progress(
        ref=make_ref(), at=NOW, phase="fit", percent=1, metrics={"bad": number, "good": 0.5}
    )
    running = tell(make_task(), phase("running"))

    assert phases.apply_progress(running, event, now=NOW).newest.metrics == {"good": 0.5}


EVENTS = st.lists(
    st.sampled_from(
        [
            phase("accepted"),
            phase("preparing"),
            phase("running"),
            exited(),
            failed(3, "submission", "bad"),
            failed(143, "aborted", "stopped"),
            phase("uploaded"),
            phase("cancelled", reason="asked"),
            phase("rejected", reason="full"),
            phase("lost", reason="gone"),
            phase("running", fence=2),
        ]
    ),
    max_size=12,
)


@given(EVENTS)
def test_whatever_arrives_in_whatever_order_an_end_stays_an_end(events):
    task, ended = make_task(), None
    for event in events:
        task = tell(task, event)
        end = (task.status, task.newest.outcome, task.newest.reason)
        assert ended in {None, end}
        ended = end if task.is_ended else None


def test_files_that_were_cancelled_on_their_way_are_no_result():
    task = tell(make_task(), exited(), phase("cancelled", reason="asked"))

    assert task.status == TaskStatus.CANCELLED


def test_times_are_the_agents_own():
    later = PhaseChanged(ref=make_ref(), phase=AttemptPhase.RUNNING, at=NOW + timedelta(seconds=3))

    assert tell(make_task(), later).newest.running_at == NOW + timedelta(seconds=3)


# --- what is remembered ------------------------------------------------------------------------


def end_as(record, failure_class, outcome="failed(user)", **fields):
    return with_fields(
        record,
        status="error",
        outcome=outcome,
        failure_class=failure_class,
        is_retriable=True,
        **fields,
    )


def try_often(record, count, *, run_id="s-1", max_tries=99, end=lambda record, n: record):
    for number in range(1, count + 1):
        record = claim(record, number, max_tries=max_tries)
        record = end(end_as(record, "pod", "failed(infrastructure)"), number)
    return record


def test_of_many_attempts_the_newest_are_remembered_in_full_and_some_more_in_outline():
    def end(record, number):
        return with_fields(record, reason=f"why {number}")

    record = try_often(make_task(attempt=0), 140, end=end)

    kept = record.past
    assert len(kept) == attempts.MAX_REMEMBERED + attempts.MAX_OUTLINES
    assert [item.reason for item in kept[-2:]] == ["why 138", "why 139"]
    assert kept[0].reason is None
    assert [item.fence for item in kept] == list(range(10, 140))
    assert record.dump()["earlier"] == {"count": 9, "pods": 0, "usd": "0"}


def test_what_pods_cost_that_are_not_listed_any_more_is_counted():
    def end(record, number):
        pod = POD | {"id": f"p-{number}", "gone_at": NOW.isoformat(), "usd": "0.25"}
        return with_fields(record, pod=pod | {"address": "a" * 100})

    record = try_often(make_task(attempt=0), 140, end=end)

    assert record.dump()["earlier"] == {"count": 9, "pods": 9, "usd": "2.25"}
    pod = record.dump()["attempts"][0]["pod"]
    assert "address" not in pod
    assert pod["usd"] == "0.25"


def test_a_pod_that_may_be_billed_is_never_forgotten():
    def end(record, number):
        pod = POD | {"id": "p-1", "gone_at": None, "boot_id": "b"}
        return with_fields(record, pod=pod) if number == 1 else record

    record = try_often(make_task(attempt=0), 200, end=end)

    assert record.past[0].pod.boot_id == "b"
    assert record.is_at_work


def test_ledgers_count_what_is_only_remembered_in_outline():
    def end(record, number):
        return end_as(record, "unknown") if number in {1, 2} else record

    record = try_often(make_task(attempt=0), 99, end=end)
    assert retries.may_retry(record)

    third = claim(record, 100, max_tries=99)
    assert not retries.may_retry(end_as(third, "unknown"))


def test_memory_that_has_grown_does_not_shrink_again():
    def end(record, number):
        return end_as(record, "oom") if number == 1 else record

    record = try_often(make_task(attempt=0), 300, end=end)

    assert attempts.build_attempt_spec(record).limits.memory_mib == 2 * Limits().memory_mib


def test_of_a_verdict_only_what_is_of_use_is_kept():
    record = make_task()
    verdict = GOOD | {
        "reason": "r" * 5000,
        "usage": {"wall_seconds": 1.5, "gpu": {"name": "L4"}, "more": "x" * 100_000},
        "console": {"lines": 2},
        "more": "x" * 100_000,
    }

    kept = tell(record, exited(verdict=verdict)).newest.verdict.dump()

    assert kept["reason"] == "r" * (MAX_LINE - 1) + "…"
    assert (kept["usage"]["wall_seconds"], kept["usage"]["gpu"]["name"]) == (1.5, "L4")
    assert kept["console"]["lines"] == 2
    assert len(json.dumps(kept)) < 2000


def test_an_attempt_whose_command_can_never_be_sent_ends_with_the_reason():
    record = make_task()

    ended = phases.refuse_start(record, fence=1, reason="too large", now=NOW)

    assert (ended.status, ended.newest.reason) == (TaskStatus.ERROR, "too large")
    assert retries.find_end(ended, fence=1, run_id="s-1") is WaitEnd.FAIL
    assert phases.refuse_start(ended, fence=1, reason="again", now=NOW) is None
    assert phases.refuse_start(record, fence=7, reason="another's", now=NOW) is None


@pytest.mark.parametrize("refusal", [item.value for item in Refusal])
def test_a_refusal_is_kept_by_its_class_and_only_a_name_ends_the_task(refusal):
    task = tell(make_task(), phase("rejected", reason="no", refusal=refusal))

    assert task.newest.failure_class == refusal
    assert find_end(task) is (WaitEnd.FAIL if refusal == "name" else WaitEnd.RETRY)


@pytest.mark.parametrize("details", [{}, {"refusal": "of a newer agent"}])
def test_a_refusal_of_a_class_that_nobody_knows_is_tried_again_as_ever(details):
    task = tell(make_task(), phase("rejected", reason="no", **details))

    assert task.newest.failure_class == "failed(infrastructure)"
    assert find_end(task) is WaitEnd.RETRY


def test_servers_that_refuse_a_validation_use_up_none_of_its_attempts():
    """Three full servers in a row, and the submission ended without anybody having looked at it."""
    task = make_task("validation")
    for number in range(1, 8):
        task = tell(task, phase("rejected", fence=number, reason="full", refusal="full"))
        assert find_end(task, fence=number) is WaitEnd.RETRY
        task = claim(task, number + 1)


def test_a_class_that_submitted_code_made_up_uses_up_its_validations():
    task = make_task("validation")
    for number in range(1, 4):
        verdict = {"outcome": "failed", "class": "capacity", "reason": "ha"}
        gone = phase("exited", fence=number, exit_code=75, verdict=verdict, files=[])
        task = tell(task, phase("running", fence=number), gone)
        ends = find_end(task, fence=number)
        task = claim(task, number + 1)

    assert ends is WaitEnd.FAIL


def unfit(task, event):
    return phases.refuse_phase(task, event, problem="a number is too long", now=NOW)


@pytest.mark.parametrize("kind", ["training", "validation"])
@pytest.mark.parametrize("code", [137, 0, 10**50, "x", None])
def test_an_end_that_no_record_can_hold_ends_the_attempt_and_another_may_follow(kind, code):
    task = tell(make_task(kind), phase("running"))

    ended = unfit(task, exited(code, {"outcome": "succeeded", "x": 10**50}))

    assert ended.newest.outcome == "failed(infrastructure)"
    assert ended.newest.reason.endswith("reported an end that makes no sense: a number is too long")
    assert ended.newest.verdict is None
    assert find_end(ended) is WaitEnd.RETRY


def test_an_end_that_no_record_can_hold_is_a_cancel_where_one_was_wanted():
    task = tell(make_task(), phase("running"))
    task = phases.request_cancel(task, by="ann", reason="enough", now=NOW)

    assert unfit(task, exited(0, {"x": 10**50})).newest.outcome == "cancelled"


def test_an_end_that_no_record_can_hold_changes_nothing_where_it_is_outranked_or_late():
    assert unfit(make_task(attempt=2), exited(0, {"x": 10**50})) is None
    assert unfit(tell(make_task(), exited()), exited(0, {"x": 10**50})) is None


# --- what it runs in, and a GPU that it does not see --------------------------------------------

UNSEEN = failed(75, "device", "no GPU: JAX sees none: the driver 470.1 is too old")


@pytest.mark.parametrize(("gpus", "image"), [(0, "trainer"), (1, "trainer-cuda")])
def test_the_image_that_an_attempt_runs_in_is_on_record_and_stays_with_it(gpus, image):
    task = make_task(gpus=gpus, image_cuda="trainer-cuda")
    task = tell(task, phase("preparing", image="made up", image_digest="sha256:1"), phase("lost"))
    assert (task.newest.image, task.newest.gpus, task.newest.image_digest) == (
        image,
        gpus,
        "sha256:1",
    )

    task = claim(task, 2)

    (first,) = task.past
    assert (first.image, first.gpus, first.image_digest) == (image, gpus, "sha256:1")
    assert (task.newest.image, task.newest.image_digest) == ("trainer", None)


@pytest.mark.parametrize(
    ("attempt", "gpus"),
    [
        ({}, 0),
        ({"gpus": 1}, 1),
        ({"gpus": 0, "placement": {"gpus": 1}}, 0),
        ({"placement": {"gpus": 1}}, 1),
        ({"gpus": None, "placement": None}, 0),
        ({"gpus": None, "pod": POD | {"gpu": "NVIDIA L4"}}, 1),
        ({"gpus": None, "pod": POD | {"gpu": None, "cpu": "cpu3c"}}, 0),
    ],
    ids=["none", "given", "not given", "from before", "queued", "pod", "cpu pod"],
)
def test_how_many_gpus_an_attempt_holds_is_told_by_its_record(attempt, gpus):
    assert attempts.count_gpus(build_attempt(**attempt)) == gpus


def test_a_gpu_that_is_not_seen_is_no_fault_of_the_users():
    task = tell(make_task(gpus=1), UNSEEN)

    assert (task.newest.outcome, task.newest.failure_class) == ("failed(infrastructure)", "device")
    assert task.newest.reason == "no GPU: JAX sees none: the driver 470.1 is too old"
    assert find_end(task) is WaitEnd.RETRY


def test_a_gpu_that_is_not_seen_is_not_looked_for_without_end():
    """The word comes from the container: submitted code could train for ever at nobody's cost."""
    task, ends = blame([UNSEEN] * 10, gpus=1)

    assert len(ends) == retries.MAX_BLAMED
    assert ends[-1] is WaitEnd.FAIL
    assert task.newest.outcome == "failed(infrastructure)", "it is still nobody's fault"


MADE_UP = [failed(75, f"made-up-{number}", "ha") for number in range(10)]


@pytest.mark.parametrize(
    "told",
    [
        [failed(75, "temporary", "the disk is full")] * 10,
        [failed(10, "data", "no market data")] * 10,
        [failed(143, "aborted", "SIGTERM received")] * 10,
        [exited(137, {"outcome": "failed", "class": "ok", "reason": None})] * 10,
        MADE_UP,
    ],
    ids=["temporary", "data", "aborted", "killed", "made up"],
)
def test_a_container_blames_its_machine_a_few_times_only(told):
    """Whatever it says costs nobody anything: one module was tried 99 times."""
    task, ends = blame(told)

    assert len(ends) == retries.MAX_BLAMED
    assert ends[-1] is WaitEnd.FAIL
    assert (task.newest.outcome, task.newest.is_retriable) == ("failed(infrastructure)", True)


def test_classes_are_counted_apart_and_a_clear_begins_anew():
    told = [failed(75, "temporary", "full"), failed(10, "data", "none")] * 10
    _, ends = blame(told)
    assert len(ends) == 2 * retries.MAX_BLAMED - 1

    _, ends = blame([failed(75, "temporary", "full")] * 8, clear_at=4)
    assert ends == [WaitEnd.RETRY] * 7 + [WaitEnd.FAIL]


def test_what_ended_before_any_submitted_code_ran_is_tried_as_often_as_ever():
    """A repository that is away while a branch is prepared is nobody's word but the network's."""
    _, ends = blame([failed(75, "temporary", "no repository")] * 10, is_prepared=False)

    assert ends == [WaitEnd.RETRY] * 10


def test_blames_are_counted_that_are_only_remembered_in_outline():
    task = make_task(attempt=0)
    for number in range(1, 100):
        task = claim(task, number)
        end = phase("lost", fence=number, reason="gone")
        if number <= retries.MAX_BLAMED:
            details = failed(75, "temporary", "full").details
            end = phase("exited", fence=number, **details)
            task = tell(task, phase("running", fence=number))
        task = tell(task, end)

    assert not retries.may_retry(task)


def blame(told, *, gpus=0, is_prepared=True, clear_at=None):
    """Return a task whose attempts end as told, until one is final, and how each wait ended."""
    task, ends = make_task(attempt=0), []
    for number, end in enumerate(told, start=1):
        is_cleared = clear_at is not None and number >= clear_at
        task = claim(task, number, gpus=gpus, max_tries=30 if is_cleared else 20)
        if is_prepared:
            task = tell(task, phase("running", fence=number))
        task = tell(task, phase("exited", fence=number, **end.details))
        ends.append(find_end(task, fence=number))
        if ends[-1] is not WaitEnd.RETRY:
            break
    return task, ends


def test_the_users_own_failures_are_not_used_up_by_gpus_that_are_not_seen():
    task = make_task(gpus=1)
    for number in (1, 2):
        task = tell(task, phase("exited", fence=number, **UNSEEN.details))
        task = claim(task, number + 1, gpus=1)
    boom = failed(1, "unknown", "boom")
    task = tell(task, phase("exited", fence=3, **boom.details))

    assert find_end(task, fence=3) is WaitEnd.RETRY


@pytest.mark.parametrize("kind", ["training", "validation"])
def test_what_was_given_no_gpu_cannot_blame_one(kind):
    task = tell(make_task(kind), UNSEEN)

    assert (task.newest.outcome, task.newest.failure_class) == ("failed(user)", "unknown")
    assert attempt_until_it_stops(UNSEEN) == retries.MAX_USER_FAILURES
