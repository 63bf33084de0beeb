"""What a task asks for, and what a server offers, as placement sees them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from fakes.tasks import build_attempt, with_fields
from touchstone.core import attempts, retries
from touchstone.core.eligibility import Running
from touchstone.core.placement_inputs import (
    FIRST_BACKOFF,
    LONGEST_BACKOFF,
    build_needs,
    build_resource,
    build_schedule_needs,
    count_shares,
    find_avoided,
    find_backoff,
    find_detected,
    find_duration,
)
from touchstone.core.records.servers import Server
from touchstone.core.schedule import Placement, Platform, Schedule
from touchstone.core.tasks import TaskSpec, build_training_specs, build_validation_spec
from touchstone_agent.protocol.messages import Limits, SlotClass

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SILENCE = timedelta(seconds=60)


def make_spec(**fields):
    return TaskSpec.model_validate(
        {
            "submission_id": "s-1",
            "task_id": "i5",
            "kind": "training",
            "system": "feature_set",
            "image": "trainer",
            "content_sha256": "c" * 64,
            "content_size": 10,
            "limits": Limits(memory_mib=4096),
            "interval": 5,
            "submitted_by": "ann",
            **fields,
        }
    )


def make_task(**fields):
    return attempts.new_task(make_spec(**fields), run_id="s-1", map_index=0, now=NOW)


def end_attempt(record, *, server="rio", run_id=None, **facts):
    """Return a task after one more attempt, which ended so."""
    claimed = attempts.claim_attempt(
        record,
        attempt=record.newest.number + 1,
        server=server,
        container_of=lambda _: "c",
        now=NOW,
    )
    return with_fields(claimed, **facts, run_id=run_id or record.run_id)


def out_of_memory(record, **facts):
    return end_attempt(record, outcome="failed(infrastructure)", failure_class="oom", **facts)


# --- what a task asks for -----------------------------------------------------------------------


def test_every_wish_of_the_schedule_is_asked_for():
    needs = build_needs(
        make_task(
            platform="on-prem",
            require_cuda=True,
            prefer_cuda=True,
            min_vram_gib=24,
            min_ram_gib=32,
            allowed_hosts=("rio", "lima"),
            job="nightly",
            image_cuda="trainer-cuda",
        )
    )

    assert needs.kind is SlotClass.TRAINING
    assert needs.placement == Placement(
        platform=Platform.ON_PREM,
        require_cuda=True,
        prefer_cuda=True,
        min_vram_gib=24,
        min_ram_gib=32,
        allowed_hosts=("rio", "lima"),
    )
    assert needs.labels == {"feature_set", "user:ann", "nightly"}
    assert (needs.image, needs.image_cuda) == ("trainer", "trainer-cuda")


def test_a_task_asks_for_no_memory_unless_told_to():
    """Its limit is a ceiling: on a smaller server it may fit all the same."""
    assert build_needs(make_task()).placement.min_ram_gib == 0


def test_each_end_for_memory_doubles_what_the_next_attempt_asks_for():
    task = make_task()
    asked = []
    for _ in range(2):
        task = out_of_memory(task)
        asked.append(build_needs(task).placement.min_ram_gib)

    assert asked == [8, 16]


def test_a_larger_wish_is_not_made_smaller():
    assert build_needs(out_of_memory(make_task(min_ram_gib=100))).placement.min_ram_gib == 100


def test_memory_that_ran_out_in_an_earlier_run_is_forgotten():
    task = out_of_memory(make_task())
    again = attempts.renew_task(task, make_spec(), run_id="s-1--2", map_index=0)

    assert build_needs(again).placement.min_ram_gib == 0
    assert find_avoided(again) == frozenset()


def test_a_schedule_asks_for_what_its_trainings_will():
    """Otherwise a task that no server can run would be found out only when it waits."""
    schedule = Schedule(
        intervals="5",
        platform="runpod",
        require_cuda=True,
        min_vram_gib=24,
        min_ram_gib=32,
        allowed_hosts=["rio"],
        job="nightly",
    )
    validation = build_validation_spec(
        "s-1",
        system="feature_set",
        image="trainer",
        content_sha256="c" * 64,
        content_size=10,
        limits=Limits(),
        submitted_by="ann",
    )
    (spec,) = build_training_specs(validation, schedule, limits=Limits())
    task = attempts.new_task(spec, run_id="s-1", map_index=0, now=NOW)

    # The image is the installation's, and no matter to what could ever run it.
    assert replace(build_needs(task), image="") == build_schedule_needs(
        schedule, system="feature_set", submitted_by="ann"
    )


# --- where it failed ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "is_avoided"),
    [
        ({"outcome": "failed(infrastructure)", "failure_class": "temporary"}, True),
        ({"outcome": "lost"}, True),
        ({"outcome": "failed(infrastructure)", "failure_class": "oom"}, False),
        ({"outcome": "failed(infrastructure)", "phase": "rejected"}, False),
        ({"outcome": "failed(user)"}, False),
        ({"outcome": "cancelled"}, False),
        ({"outcome": None}, False),
    ],
    ids=str,
)
def test_only_what_was_the_servers_fault_makes_it_avoided(facts, is_avoided):
    task = end_attempt(make_task(), server="rio", **facts)

    assert find_avoided(task) == (frozenset({"rio"}) if is_avoided else frozenset())


def test_every_server_on_which_it_failed_in_this_run_is_avoided():
    task = make_task()
    for server in ("rio", "lima"):
        task = end_attempt(task, server=server, outcome="lost")
    task = end_attempt(task, server="oslo", outcome=None)

    assert find_avoided(task) == {"rio", "lima"}


# --- how long it took ---------------------------------------------------------------------------


def test_the_duration_is_that_of_the_container():
    ended = {
        "running_at": NOW.isoformat(),
        "exited_at": (NOW + timedelta(seconds=90)).isoformat(),
        "outcome": "succeeded",
    }

    assert find_duration(build_attempt(**ended)) == 90
    for change in ({"outcome": "failed(user)"}, {"running_at": None}, {"exited_at": None}):
        assert find_duration(build_attempt(**(ended | change))) is None


def test_clocks_that_disagree_make_no_negative_duration():
    ended = {
        "running_at": NOW.isoformat(),
        "exited_at": (NOW - timedelta(seconds=2)).isoformat(),
        "outcome": "succeeded",
    }

    assert find_duration(build_attempt(**ended)) == 0


# --- what a server offers -----------------------------------------------------------------------


def make_server(**fields):
    stored = {
        "server": "rio",
        "heartbeat_at": NOW.isoformat(),
        "inventory": {
            "disk_free_mib": 100 * 1024,
            "memory_mib": 64 * 1024,
            "gpus": [{"name": "a", "memory_mib": 24576}, {"name": "b", "memory_mib": 8192}],
        },
    }
    return Server.load(stored | fields)


def offer(server, **fields):
    pools = {"slots": 2, "free": 1, "validation_slots": 1, "validation_free": 1}
    return build_resource(server, **{**pools, "now": NOW, "silence": SILENCE, **fields})


def test_a_server_offers_its_smallest_gpu_for_one_task_gets_any_of_them():
    has = offer(make_server()).capability

    assert (has.cuda, has.vram_gib, has.ram_gib) == (True, 8, 64)
    assert has.free_disk_gib == 100


def test_a_task_that_shares_a_gpu_has_its_share_of_the_memory():
    gpus = [{"name": "a", "memory_mib": 24576, "shares": 3}, {"name": "b", "memory_mib": 16384}]
    server = make_server(inventory={"memory_mib": 1024, "gpus": gpus})

    assert offer(server).capability.vram_gib == 8
    assert offer(server).gpu_shares == 3
    assert count_shares(server) == 4
    assert count_shares(make_server()) == 2
    assert count_shares(Server(server="rio")) == 0


def test_what_a_gpu_costs_is_what_the_file_says():
    assert offer(make_server()).gpu_price_per_hour is None
    assert offer(make_server(declared={"gpu_price_per_hour": 0.35})).gpu_price_per_hour == 0.35


def test_the_stricter_of_declared_and_detected_counts():
    declared = {"cuda": True, "vram_gib": 24, "ram_gib": 32}

    has = offer(make_server(declared=declared)).capability

    assert (has.vram_gib, has.ram_gib) == (8, 32)
    assert not offer(make_server(declared={"cuda": False})).capability.cuda


def test_a_server_without_gpus_has_no_cuda_whatever_it_declares():
    server = make_server(inventory={"memory_mib": 1024, "gpus": []}, declared={"cuda": True})

    assert not offer(server).capability.cuda


def test_nothing_was_detected_before_the_first_word():
    assert find_detected(Server(server="rio")) is None


@pytest.mark.parametrize(
    ("slots", "kinds"),
    [
        ({}, set(SlotClass)),
        ({"slots": 2, "validation_slots": 1}, set(SlotClass)),
        ({"slots": 0, "validation_slots": 2}, {SlotClass.VALIDATION}),
        ({"slots": 2, "validation_slots": 0}, {SlotClass.TRAINING}),
    ],
)
def test_what_an_agent_has_no_slots_for_its_server_does_not_take(slots, kinds):
    inventory = {"memory_mib": 1024, "gpus": [], **slots}

    assert offer(make_server(inventory=inventory)).kinds == kinds
    assert offer(make_server(inventory=None)).kinds == set(SlotClass)


def test_policies_come_from_the_fleet_file():
    server = make_server(declared={"priority": 3, "allow": ["nightly"], "deny": ["user:bob"]})

    resource = offer(server)

    assert resource.priority == 3
    assert (resource.allow, resource.deny) == (("nightly",), ("user:bob",))


@pytest.mark.parametrize(
    ("seconds", "is_alive"), [(0, True), (60, True), (61, False), (None, False)]
)
def test_a_server_is_alive_as_long_as_it_is_heard_of(seconds, is_alive):
    heard = None if seconds is None else NOW - timedelta(seconds=seconds)

    resource = offer(make_server(heartbeat_at=heard and heard.isoformat()))

    assert resource.is_alive == is_alive
    assert resource.silent_since == heard


def test_slots_and_what_holds_them_are_those_of_the_pools():
    ends = Running(ends_p50=NOW, ends_p90=NOW)

    resource = offer(make_server(), slots=4, free=-1, running=[ends])

    assert (resource.slots, resource.free) == (4, -1)
    assert resource.get_free(SlotClass.TRAINING) == 0
    assert resource.get_running(SlotClass.TRAINING) == (ends,)
    assert resource.get_free(SlotClass.VALIDATION) == 1


def end(task, phase, **changes):
    """End a task's next attempt in some way, at noon."""
    number = task.newest.number + 1
    server = changes.pop("server", "rio")
    claimed = attempts.claim_attempt(
        task,
        attempt=number,
        server=server,
        container_of=lambda _: "c",
        now=NOW,
        platform=Platform.RUNPOD if server == "runpod" else Platform.ON_PREM,
    )
    ended = {"phase": phase, "ended_at": NOW.isoformat(), "outcome": "failed(infrastructure)"}
    told = {"status": "error", "reason": f"end {number}"}
    return with_fields(claimed, **(ended | told | changes))


def unrented(task):
    return end(task, "rejected", server="runpod", failure_class="capacity")


@pytest.mark.parametrize("row", [1, 2, 10, 42, 43, 99, 5000])
def test_a_hold_is_bounded_however_often_nothing_could_be_rented(row):
    """The 43rd time it overflowed, and nothing at all was placed any more, anybody's."""
    task = unrented(make_task())
    past = (task.newest.change(fence=number) for number in range(1000, 999 + row))
    task = task.change(past=tuple(past))

    hold = find_backoff(task)

    assert NOW + FIRST_BACKOFF / 2 <= hold.until <= NOW + LONGEST_BACKOFF * 1.5
    assert hold.places == {"runpod"}


def test_the_first_servers_that_refuse_a_task_let_it_try_the_next_at_once():
    task = make_task()
    for server in ("rio", "lima"):
        task = end(task, "rejected", server=server, failure_class="full")
        assert find_backoff(task) is None

    hold = find_backoff(end(task, "rejected", server="cuzco", failure_class="disk"))

    assert hold.places == {"rio", "lima", "cuzco"}
    assert hold.until > NOW


def test_refusals_alone_do_not_use_up_airflows_tries_within_a_day():
    task, waited = make_task(), timedelta()
    for _ in range(99):
        task = end(task, "rejected", failure_class="full")
        hold = find_backoff(task)
        waited += hold.until - NOW if hold else timedelta()

    assert waited > timedelta(days=1)
    assert retries.may_retry(with_fields(task, is_retriable=True))


def test_an_attempt_that_ran_ends_the_row_of_refusals():
    task = make_task()
    for _ in range(9):
        task = end(task, "rejected", failure_class="full")
    assert find_backoff(task) is not None

    assert find_backoff(end(task, "lost", failure_class="lost")) is None


def test_no_pod_is_tried_sooner_because_a_server_refused_in_between():
    task = unrented(unrented(make_task()))

    hold = find_backoff(end(task, "rejected", failure_class="full"))

    assert hold.places == {"runpod"}
    assert hold.until > NOW


def test_a_class_that_submitted_code_made_up_keeps_a_task_from_no_pod():
    ran = {"failure_class": "capacity", "running_at": NOW.isoformat(), "exit_code": 75}

    assert find_backoff(end(make_task(), "exited", server="runpod", **ran)) is None


@pytest.mark.parametrize(
    ("refusal", "is_avoided"),
    [("disk", True), ("image", True), ("gpu", True), ("full", False), ("drained", False)],
)
def test_a_task_keeps_away_from_a_server_that_lacks_what_it_needs(refusal, is_avoided):
    task = end(make_task(), "rejected", failure_class=refusal)

    assert find_avoided(task) == (frozenset({"rio"}) if is_avoided else frozenset())


def test_a_pool_larger_than_its_agent_offers_what_the_agent_takes():
    server = make_server(inventory={"slots": 1})
    now = Running(ends_p50=NOW, ends_p90=NOW)

    empty, busy = (
        build_resource(
            server,
            slots=4,
            free=4 - len(running),
            validation_slots=2,
            validation_free=2,
            running=running,
            now=NOW,
            silence=timedelta(seconds=60),
        )
        for running in ((), (now,))
    )

    assert (empty.slots, empty.get_free(SlotClass.TRAINING)) == (1, 1)
    assert busy.get_free(SlotClass.TRAINING) == 0
    assert busy.get_free(SlotClass.VALIDATION) == 2


@pytest.mark.parametrize(
    ("refusal", "kind", "blocked"),
    [
        ("disk", None, {SlotClass.TRAINING, SlotClass.VALIDATION}),
        ("gpu", "training", {SlotClass.TRAINING}),
        ("full", "validation", {SlotClass.VALIDATION}),
        ("image", None, set()),
    ],
)
def test_a_held_server_says_what_it_does_not_take_and_until_when(refusal, kind, blocked):
    hold = {
        "refusal": refusal,
        "kind": kind,
        "image": "trainer" if refusal == "image" else None,
        "until": (NOW + timedelta(minutes=5)).isoformat(),
        "reason": "10 MiB free",
    }

    def build(now):
        return build_resource(
            make_server(inventory=None, holds={"x": hold}),
            slots=1,
            free=1,
            validation_slots=1,
            validation_free=1,
            now=now,
            silence=timedelta(hours=1),
        )

    held, later = build(NOW), build(NOW + timedelta(minutes=6))
    told = {kind: held.get_block(kind) for kind in SlotClass if held.get_block(kind)}

    assert told.keys() == blocked
    assert all("12:05 UTC: 10 MiB free" in text for text in told.values())
    assert [image for image, _ in held.held_images] == (["trainer"] if refusal == "image" else [])
    assert not any(later.get_block(kind) for kind in SlotClass)
    assert later.held_images == ()


def test_what_one_submitters_trainings_have_said_is_held_for_those_alone():
    hold = {
        "refusal": None,
        "until": (NOW + timedelta(minutes=5)).isoformat(),
        "reason": "a training saw no GPU: x",
        "kind": "training",
        "label": "user:ann",
    }

    held = offer(make_server(holds={"x": hold}))

    assert held.get_block(SlotClass.TRAINING) is None
    assert held.held_labels == (
        ("user:ann", "takes no trainings of ann until 12:05 UTC: a training saw no GPU: x"),
    )
