"""Where a task goes, why it waits, and who goes first."""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import replace
from decimal import Decimal

import pytest

from fakes.planning import estimate, plan
from fakes.runpod_account import make_cpu
from touchstone.core.fairness import TaskBackoff
from touchstone.core.market import Market
from touchstone.core.offers import GpuOffer, Stock
from touchstone.core.placement import (
    Capability,
    Declared,
    Needs,
    Resource,
    Running,
    Waiting,
    find_impossible,
    find_unfit,
    intersect,
)
from touchstone.core.pods import Cloud
from touchstone.core.schedule import CloudChoice, Placement, Platform
from touchstone_agent.protocol.messages import SlotClass

NOW = dt.datetime(2026, 3, 2, 14, 0, tzinfo=dt.UTC)
TRAINING = Needs(kind=SlotClass.TRAINING)
VALIDATION = Needs(kind=SlotClass.VALIDATION)
GPU = Capability(cuda=True, vram_gib=24, ram_gib=64)
SMALL_GPU = Capability(cuda=True, vram_gib=8, ram_gib=64)
CPU = Capability(ram_gib=64)


def before(seconds):
    return NOW - dt.timedelta(seconds=seconds)


def make_server(name="rio1", **overrides):
    fields = {"slots": 1, "free": 1, "validation_slots": 1, "validation_free": 1}
    return Resource(**{"name": name, "capability": CPU} | fields | overrides)


def make_full(name="rio1", *, minutes=20, **overrides):
    ends = NOW + dt.timedelta(minutes=minutes)
    running = (Running(ends_p50=ends, ends_p90=ends),)
    return make_server(name, **{"free": 0, "running": running} | overrides)


def make_runpod(**overrides):
    return make_server(
        "runpod",
        **{"platform": Platform.RUNPOD, "capability": GPU, "kinds": frozenset({SlotClass.TRAINING})}
        | overrides,
    )


def make_market(*offers, **fields):
    return Market(offers=offers or (make_offer(),), **fields)


def make_offer(name="RTX 4090", price="0.69", stock=Stock.HIGH, cloud=Cloud.SECURE):
    return GpuOffer(
        gpu=f"NVIDIA {name}",
        name=name,
        memory_gb=24,
        cloud=cloud,
        price_per_hour=Decimal(price),
        stock=stock,
    )


def make_waiting(task_id="i1", *, waited=0, **overrides):
    fields = {"needs": TRAINING, "since": before(waited), "submitter": "ada"}
    return Waiting(**{"key": ("s-1", task_id)} | fields | overrides)


def needs(**overrides):
    asked = {name: overrides.pop(name) for name in Placement.model_fields if name in overrides}
    return replace(TRAINING, placement=Placement(**asked), **overrides)


def place(waiting, *resources, **facts):
    """Return where each task goes, by its task id."""
    tasks = waiting if isinstance(waiting, list) else [waiting]
    decided = plan(tasks, resources, now=NOW, **facts)
    return {placement.key[1]: placement.resource for placement in decided.placements}


def explain(task, *resources, **facts):
    """Return why a task waits."""
    decided = plan([task], resources, now=NOW, **facts)
    assert not decided.placements
    return decided.waits[0].reason


# --- each constraint alone --------------------------------------------------------------------

CONSTRAINTS = [
    (needs(platform=Platform.RUNPOD), {}, "rio1 is on-prem, it must run runpod"),
    (needs(require_cuda=True), {}, "rio1 has no CUDA"),
    (needs(min_vram_gib=24), {"capability": SMALL_GPU}, "rio1 has 8 GiB VRAM, it needs 24"),
    (needs(min_ram_gib=65), {}, "rio1 has 64 GiB RAM, it needs 65"),
    (
        needs(allowed_hosts=("rio2", "rio3")),
        {},
        "rio1 is not one of its allowed hosts (rio2, rio3)",
    ),
    (needs(labels=frozenset({"user:bob"})), {"deny": ("user:b*",)}, "rio1 denies user:b*"),
    (
        needs(labels=frozenset({"model_structure"})),
        {"allow": ("feature_set", "nightly-*")},
        "rio1 allows only feature_set, nightly-*",
    ),
]


@pytest.mark.parametrize(("asked", "has", "reason"), CONSTRAINTS)
def test_each_constraint_alone_keeps_a_task_away_with_its_reason(asked, has, reason):
    server = make_server(**has)

    assert find_unfit(asked, server) == reason
    assert reason in explain(make_waiting(needs=asked), server)
    assert place(make_waiting(), make_server()) == {"i1": "rio1"}


@pytest.mark.parametrize(("asked", "has", "reason"), CONSTRAINTS)
def test_a_task_that_nobody_can_ever_run_is_named_impossible(asked, has, reason):
    server = make_server(**has)

    told = find_impossible(asked, [server])

    assert told is not None
    assert told.startswith("no resource can run it")
    assert reason in told


def test_what_is_drained_silent_or_full_is_not_impossible():
    server = make_server(slots=0, free=0, is_alive=False, block="closed", capability=GPU)

    assert find_impossible(needs(require_cuda=True), [make_server("rio2"), server]) is None


def test_a_server_for_validations_alone_is_not_told_as_a_drained_one():
    only = make_server(slots=0, free=0, kinds=frozenset({SlotClass.VALIDATION}))
    on_prem = make_waiting(needs=needs(platform=Platform.ON_PREM))

    assert explain(on_prem, only) == (
        "no resource can run it (needs an on-prem server): rio1 takes no trainings"
    )
    assert place(make_waiting("validation", needs=VALIDATION), only) == {"validation": "rio1"}


def test_what_a_server_does_not_take_goes_to_runpod_whatever_slots_its_pool_has():
    only = make_server(kinds=frozenset({SlotClass.VALIDATION}))

    assert place(make_waiting(), only, make_runpod()) == {"i1": "runpod"}
    assert explain(make_waiting(), only, make_runpod(slots=0, free=0)) == (
        "nothing is ready: runpod has no slots"
    )


def test_constraints_that_no_single_server_meets_together_are_impossible():
    fleet = [
        make_server("large", capability=Capability(ram_gib=256)),
        make_server("gpu", capability=GPU),
    ]

    told = find_impossible(needs(require_cuda=True, min_ram_gib=128), fleet)

    assert told == (
        "no resource can run it (needs CUDA, 128 GiB RAM): "
        "gpu has 64 GiB RAM, it needs 128; large has no CUDA"
    )


def test_of_a_large_fleet_that_cannot_run_it_some_are_told():
    told = find_impossible(needs(require_cuda=True), [make_server(f"rio{n}") for n in range(9)])

    assert told is not None
    assert told.endswith("rio2 has no CUDA; 6 more neither")


def test_without_servers_everything_is_impossible():
    assert find_impossible(TRAINING, []) == "there are no servers"
    assert explain(make_waiting()) == "there are no servers"


def test_a_card_sold_with_24_gib_is_one_although_it_reports_a_little_less():
    card = Capability(cuda=True, vram_gib=24564 / 1024)

    assert find_unfit(needs(min_vram_gib=24), make_server(capability=card)) is None
    assert find_unfit(needs(min_vram_gib=25), make_server(capability=card)) is not None


# --- allow and deny ---------------------------------------------------------------------------


def test_deny_wins_over_allow():
    server = make_server(allow=("user:ada",), deny=("feature_set",))

    assert place(make_waiting(needs=needs(labels=frozenset({"user:ada"}))), server) == {
        "i1": "rio1"
    }
    labels = frozenset({"user:ada", "feature_set"})
    assert explain(make_waiting(needs=needs(labels=labels)), server).endswith("denies feature_set")


def test_an_empty_allow_lets_everything_in():
    assert place(make_waiting(needs=needs(labels=frozenset({"anything"}))), make_server()) == {
        "i1": "rio1"
    }
    assert place(make_waiting(), make_server()) == {"i1": "rio1"}


def test_tasks_whose_labels_differ_only_where_nobody_looks_are_told_the_same():
    tasks = [
        make_waiting(f"i{n}", needs=needs(labels=frozenset({f"user:u{n}", "model_structure"})))
        for n in range(3)
    ]

    decided = plan(tasks, [make_server(deny=("model_*",))], now=NOW)

    assert {wait.reason for wait in decided.waits} == {
        "no resource can run it: rio1 denies model_*"
    }


# --- declared and detected --------------------------------------------------------------------


def test_the_stricter_of_declared_and_detected_wins():
    declared = Declared(cuda=True, vram_gib=16, ram_gib=128)

    assert intersect(declared, GPU) == Capability(cuda=True, vram_gib=16, ram_gib=64)


def test_a_cpu_server_that_claims_cuda_is_a_cpu_server():
    assert intersect(Declared(cuda=True, vram_gib=24), CPU) == CPU


def test_a_server_declared_without_cuda_offers_no_vram_either():
    assert intersect(Declared(cuda=False), GPU) == CPU


def test_what_is_not_declared_is_as_detected():
    assert intersect(None, GPU) == GPU
    assert intersect(Declared(), GPU) == GPU


def test_a_server_that_was_never_heard_of_is_known_by_its_declaration():
    assert intersect(Declared(cuda=True, vram_gib=24, ram_gib=64), None) == GPU
    assert intersect(None, None) == Capability()


# --- prefer_cuda ------------------------------------------------------------------------------


def test_a_task_that_prefers_cuda_leaves_a_lesser_server_alone_for_299_s():
    task = make_waiting(needs=needs(prefer_cuda=True), waited=299)

    assert place(task, make_server()) == {}


def test_a_task_that_prefers_cuda_takes_a_lesser_server_after_301_s():
    task = make_waiting(needs=needs(prefer_cuda=True), waited=301)

    decided = plan([task], [make_server()], now=NOW)

    assert [placement.resource for placement in decided.placements] == ["rio1"]
    assert decided.placements[0].reason.endswith("it prefers CUDA but waited its time for it")


def test_the_grace_for_cuda_is_configurable():
    task = make_waiting(needs=needs(prefer_cuda=True), waited=11)

    assert place(task, make_server(), cuda_grace=dt.timedelta(seconds=10)) == {"i1": "rio1"}


def test_a_task_that_prefers_cuda_takes_it_at_once_and_still_after_its_grace():
    fleet = [make_server("fast", priority=9), make_server("gpu", capability=GPU)]

    for waited in (0, 301):
        task = make_waiting(needs=needs(prefer_cuda=True), waited=waited)
        assert place(task, *fleet) == {"i1": "gpu"}


def test_a_task_in_its_grace_does_not_hold_up_the_next():
    tasks = [make_waiting("i1", needs=needs(prefer_cuda=True), waited=60), make_waiting("i2")]

    assert place(tasks, make_server()) == {"i2": "rio1"}


def test_what_must_have_cuda_never_runs_without():
    task = make_waiting(needs=needs(require_cuda=True, prefer_cuda=True), waited=9000)

    assert place(task, make_server()) == {}


# --- the choice of a server -------------------------------------------------------------------


def test_on_prem_goes_before_runpod_whatever_their_priorities():
    assert place(make_waiting(), make_runpod(priority=9), make_server()) == {"i1": "rio1"}


def test_runpod_takes_what_finds_no_slot_on_prem():
    decided = plan([make_waiting()], [make_runpod(), make_full()], now=NOW)

    assert decided.placements[0].resource == "runpod"
    assert decided.placements[0].reason == "a slot of runpod is free, and none on-prem that fits"


def test_a_platform_that_was_asked_for_is_kept_to():
    on_prem = make_waiting("i1", needs=needs(platform=Platform.ON_PREM))
    runpod = make_waiting("i2", needs=needs(platform=Platform.RUNPOD))

    assert place(on_prem, make_runpod(), make_full()) == {}
    assert place(runpod, make_runpod(), make_server()) == {"i2": "runpod"}


def test_the_server_of_higher_priority_is_filled_first():
    fleet = [make_server("rio1"), make_server("rio2", priority=3, capability=GPU)]

    assert place(make_waiting(), *fleet) == {"i1": "rio2"}


def test_a_gpu_is_not_taken_by_what_needs_none():
    fleet = [make_server("a-gpu", capability=GPU, slots=4, free=4), make_server("z-cpu")]

    assert place(make_waiting(), *fleet) == {"i1": "z-cpu"}


def test_the_smallest_gpu_that_fits_is_taken():
    fleet = [make_server("a-large", capability=GPU), make_server("b-small", capability=SMALL_GPU)]

    assert place(make_waiting(needs=needs(require_cuda=True)), *fleet) == {"i1": "b-small"}


def test_of_equal_servers_the_one_with_most_free_slots_is_taken_then_the_first_by_name():
    fleet = [make_server(name, slots=3, free=free) for name, free in (("c", 2), ("b", 2), ("a", 1))]

    assert place([make_waiting(f"i{n}") for n in range(4)], *fleet) == {
        "i0": "b",
        "i1": "c",
        "i2": "a",
        "i3": "b",
    }


# --- servers where it failed ------------------------------------------------------------------


def test_a_retry_goes_to_another_server_than_the_one_that_failed_it():
    fleet = [make_server("rio1", slots=4, free=4), make_server("rio2")]

    assert place(make_waiting(avoid=frozenset({"rio1"})), *fleet) == {"i1": "rio2"}


def test_a_retry_waits_its_grace_for_another_server_then_goes_back():
    task = make_waiting(avoid=frozenset({"rio1"}), waited=299)
    fleet = [make_server("rio1"), make_full("rio2")]

    assert "failed on rio1: waits for another server until 14:00 UTC" in explain(task, *fleet)
    assert place(replace(task, since=before(301)), *fleet) == {"i1": "rio1"}


@pytest.mark.parametrize(
    "other",
    [
        make_server("rio2", is_alive=False),
        make_server("rio2", slots=0, free=0),
        make_server("rio2", deny=("user:ada",)),
        make_runpod(block="out of stock"),
    ],
    ids=["silent", "drained", "denying", "blocked"],
)
def test_a_retry_goes_back_at_once_if_no_other_server_could_take_it(other):
    labels = frozenset({"user:ada"})
    task = make_waiting(avoid=frozenset({"rio1"}), needs=needs(labels=labels))

    decided = plan([task], [make_server("rio1"), other], now=NOW)

    assert [placement.resource for placement in decided.placements] == ["rio1"]
    assert "failed there before" in decided.placements[0].reason


# --- slots ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "server",
    [
        make_server(is_alive=False),
        make_server(slots=0),
        make_server(free=0),
        make_server(free=-2),
        make_server(block="out of stock"),
    ],
    ids=["silent", "drained", "full", "over-full", "blocked"],
)
def test_nothing_is_placed_where_nothing_may_go(server):
    assert place(make_waiting(), server) == {}


def test_validations_and_trainings_take_slots_of_their_own():
    tasks = [make_waiting("validation", needs=VALIDATION), make_waiting("i1"), make_waiting("i2")]

    assert place(tasks, make_server()) == {"validation": "rio1", "i1": "rio1"}


def test_no_more_is_placed_than_an_admin_left_slots():
    tasks = [make_waiting(f"i{n}") for n in range(5)]

    assert len(place(tasks, make_server(slots=2, free=4))) == 2


def test_nothing_is_placed_while_placements_are_paused():
    assert explain(make_waiting(), make_server(), is_paused=True) == "placements are paused"


# --- who goes first ---------------------------------------------------------------------------


def test_the_highest_priority_goes_first_then_the_oldest_then_the_map_index():
    tasks = [
        make_waiting("young", waited=1),
        make_waiting("second", waited=9, order=2),
        make_waiting("first", waited=9, order=1),
        make_waiting("urgent", priority=1),
    ]

    decided = plan(tasks, [make_full()], now=NOW)

    assert [(wait.key[1], wait.position) for wait in decided.waits] == [
        ("urgent", 1),
        ("first", 2),
        ("second", 3),
        ("young", 4),
    ]


def test_what_is_urgent_but_fits_nowhere_does_not_hold_up_the_rest():
    urgent = make_waiting("urgent", priority=9, needs=needs(require_cuda=True))

    assert place([urgent, make_waiting("i1")], make_server()) == {"i1": "rio1"}


def test_five_hundred_tasks_of_one_submitter_do_not_delay_the_first_of_another():
    many = [make_waiting(f"i{n:03}", waited=900) for n in range(500)]
    one = make_waiting("newcomer", submitter="bob")

    assert place([*many, one], make_server(), usage={"ada": 1}) == {"newcomer": "rio1"}


def test_five_hundred_trainings_do_not_delay_the_first_validation_of_anybody():
    many = [make_waiting(f"i{n:03}", waited=900) for n in range(500)]
    one = make_waiting("validation", needs=VALIDATION)

    assert place([*many, one], make_server(), usage={"ada": 1})["validation"] == "rio1"


def test_who_trains_much_does_not_wait_longer_for_a_validation():
    tasks = [
        make_waiting("of ada", needs=VALIDATION, waited=9),
        make_waiting("of bob", needs=VALIDATION, submitter="bob"),
    ]

    assert place(tasks, make_server(), usage={"ada": 50}) == {"of ada": "rio1"}
    assert place(tasks, make_server(), validation_usage={"ada": 1}) == {"of bob": "rio1"}


def test_slots_are_shared_by_weight():
    tasks = [
        make_waiting(f"{name}{n:02}", submitter=name) for name in ("ada", "bob") for n in range(20)
    ]

    placed = place(tasks, make_server(slots=8, free=8), weights={"ada": 3})

    assert sum(task_id.startswith("ada") for task_id in placed) == 6


def test_who_has_no_weight_comes_last():
    tasks = [make_waiting("of ada", waited=99), make_waiting("of bob", submitter="bob")]

    assert place(tasks, make_server(), weights={"ada": 0}) == {"of bob": "rio1"}
    assert place(tasks[:1], make_server(), weights={"ada": 0}) == {"of ada": "rio1"}


def test_waiting_for_a_scarce_machine_costs_no_turn_on_the_others():
    """Counting what could not be placed would put ada's last task behind all of bob's."""
    scarce = [make_waiting(f"gpu{n}", needs=needs(require_cuda=True), waited=99) for n in range(9)]
    plain = make_waiting("plain", waited=50)
    others = [make_waiting(f"bob{n}", submitter="bob") for n in range(9)]
    full = make_full("gpu", capability=GPU)

    assert "plain" in place([*scarce, plain, *others], full, make_server(slots=2, free=2))


def test_equal_inputs_give_equal_plans_in_whatever_order_they_come():
    source = random.Random(3)
    tasks = [
        make_waiting(f"i{n}", waited=n % 3, submitter=source.choice("abc"), order=n % 2)
        for n in range(50)
    ]
    fleet = [make_server(f"rio{n}", slots=3, free=3, priority=n % 2) for n in range(4)]
    expected = plan(tasks, fleet, now=NOW)

    for _ in range(10):
        source.shuffle(tasks)
        source.shuffle(fleet)
        assert plan(tasks, fleet, now=NOW) == expected


# --- reasons ----------------------------------------------------------------------------------


def test_a_full_server_tells_what_is_needed_and_when_it_is_free():
    task = make_waiting(needs=needs(min_vram_gib=24))

    assert explain(task, make_full("rio3090", capability=GPU), make_server("zeus")) == (
        "needs 24 GiB VRAM; rio3090 is full, next free about 14:20 UTC"
    )


def test_of_several_full_servers_the_first_to_be_free_is_named():
    fleet = [make_full("rio1", minutes=30), make_full("rio2", minutes=5)]

    assert explain(make_waiting(), *fleet) == (
        "rio1 and rio2 are full, next free about 14:05 UTC (rio2)"
    )
    assert explain(make_waiting(), *fleet, make_full("rio3"), make_full("rio4")).startswith(
        "all 4 that fit are full"
    )


def test_an_end_on_another_day_is_told_with_its_day():
    assert explain(make_waiting(), make_full(minutes=60 * 24)).endswith("about 03 Mar 14:00 UTC")


def test_an_end_that_is_overdue_is_not_told_as_a_time_gone_by():
    assert explain(make_waiting(), make_full(minutes=-1)) == "rio1 is full, next free any minute"


def test_where_an_admin_took_slots_away_the_first_end_frees_nothing():
    ends = [NOW + dt.timedelta(minutes=minutes) for minutes in (10, 20)]
    running = tuple(Running(ends_p50=end, ends_p90=end) for end in ends)

    told = explain(make_waiting(), make_server(slots=1, free=-1, running=running))

    assert told == "rio1 is full, next free about 14:20 UTC"


def test_a_silent_server_is_named_with_the_time_it_was_last_heard_of():
    silent = make_server("rio3090", capability=GPU, is_alive=False, silent_since=before(3480))

    assert explain(make_waiting(needs=needs(require_cuda=True)), silent, make_server("zeus")) == (
        "needs CUDA; nothing that fits is ready: rio3090 is silent since 13:02 UTC"
    )


def test_drained_and_blocked_resources_are_named_with_what_blocks_them():
    runpod = make_runpod(block="balance is $3, under the $5 of one task")

    assert explain(make_waiting(), make_server(slots=0, free=0), runpod) == (
        "nothing is ready: rio1 has no slots, runpod: balance is $3, under the $5 of one task"
    )


def test_beside_a_full_server_the_others_that_would_do_are_told_too():
    told = explain(make_waiting(), make_full("rio1"), make_server("rio2", is_alive=False))

    assert told == "rio1 is full, next free about 14:20 UTC; rio2 is not online"


def test_a_task_in_its_grace_is_told_until_when_it_waits_for_cuda():
    task = make_waiting(needs=needs(prefer_cuda=True), waited=60)

    assert explain(task, make_full("gpu", capability=GPU), make_server("zeus")) == (
        "prefers CUDA: waits for it until 14:04 UTC; gpu is full, next free about 14:20 UTC"
    )
    assert explain(task, make_server("zeus")).startswith("prefers CUDA: waits for it until 14:04")


def test_validations_are_told_of_validation_slots():
    task = make_waiting(needs=VALIDATION)

    assert explain(task, make_server(validation_slots=0)) == "nothing is ready: rio1 has no slots"


def test_a_task_that_failed_after_hours_still_goes_elsewhere_first():
    """The wait for another server begins with the failure, not with the first wait."""
    fleet = (make_server("rio1"), make_full("rio2"))
    task = make_waiting(avoid=frozenset({"rio1"}), waited=10_800, failed_at=before(10))

    assert place(task, *fleet) == {}
    assert place(replace(task, failed_at=before(300)), *fleet) == {"i1": "rio1"}


# --- what is rented -----------------------------------------------------------------------------


def test_a_pod_is_rented_when_no_server_is_free_and_not_before():
    runpod = make_runpod(market=make_market())

    assert place(make_waiting(), make_server(), runpod) == {"i1": "rio1"}
    assert place(make_waiting(), make_full(), runpod) == {"i1": "runpod"}


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"gpu_models": ("RTX 9999",)}, "runpod: GPU 'RTX 9999' is unknown to RunPod"),
        ({"max_price": Decimal("0.5")}, "over the ceiling of $0.5/h"),
        ({"cloud": CloudChoice.COMMUNITY}, "not offered in COMMUNITY cloud"),
        ({"min_vram_gib": 48}, "has 24 GB, 48 GB are needed"),
    ],
)
def test_what_runpod_does_not_have_at_all_it_could_never_run(wish, reason):
    task = needs(platform=Platform.RUNPOD, **wish)

    told = find_unfit(task, make_runpod(market=make_market()))

    assert told is not None
    assert reason in told


def test_what_is_out_of_stock_is_waited_for_and_told():
    runpod = make_runpod(market=make_market(make_offer(stock=Stock.NONE)))
    task = make_waiting(needs=needs(platform=Platform.RUNPOD))

    assert place(task, runpod) == {}
    assert explain(task, runpod) == (
        "needs RunPod; nothing that fits is ready: "
        "runpod: RTX 4090 is out of stock in SECURE cloud; "
        "NVIDIA RTX 4090 is not offered in COMMUNITY cloud"
    )


def test_a_second_choice_is_taken_when_the_first_is_out_of_stock():
    offers = make_offer(stock=Stock.NONE), make_offer("RTX 3090", "0.46")
    runpod = make_runpod(market=make_market(*offers))
    picky = make_waiting(needs=needs(platform=Platform.RUNPOD, gpu_models=("RTX 4090",)))
    easy = make_waiting(
        "i5", needs=needs(platform=Platform.RUNPOD, gpu_models=("RTX 4090", "RTX 3090"))
    )

    assert place([picky, easy], runpod) == {"i5": "runpod"}


def test_the_installations_ceiling_holds_beside_the_tasks_own():
    market = make_market(max_price=Decimal("0.5"))
    task = needs(platform=Platform.RUNPOD, max_price=Decimal(9))

    assert "over the ceiling of $0.5/h" in str(find_unfit(task, make_runpod(market=market)))


def make_backoff(seconds, reason="no pod to be had"):
    return TaskBackoff(until=NOW + dt.timedelta(seconds=seconds), reason=reason)


def test_what_could_not_be_rented_is_not_tried_again_at_once_but_a_server_may_take_it():
    runpod = make_runpod(market=make_market())
    task = make_waiting(backoff=make_backoff(60))

    assert place(task, runpod) == {}
    assert place(task, runpod, make_server()) == {"i1": "rio1"}
    assert place(replace(task, backoff=make_backoff(0)), runpod) == {"i1": "runpod"}


def test_why_no_pod_is_tried_is_told_with_the_time_it_will_be():
    runpod = make_runpod(market=make_market())
    only = make_waiting(
        needs=needs(platform=Platform.RUNPOD), backoff=make_backoff(600, "over budget")
    )

    assert explain(only, runpod) == "over budget: no pod is tried again before 14:10 UTC"
    assert explain(replace(only, needs=TRAINING), runpod, make_full()) == (
        "over budget: no pod is tried again before 14:10 UTC; "
        "rio1 is full, next free about 14:20 UTC"
    )


def test_the_end_of_a_hold_is_in_the_estimate():
    runpod = make_runpod(market=make_market())
    task = make_waiting(needs=needs(platform=Platform.RUNPOD), backoff=make_backoff(600))

    assert estimate([task], [runpod], now=NOW)[task.key].p50 == NOW + dt.timedelta(seconds=600)


# --- validations in pods ------------------------------------------------------------------------


def make_pods(slots=2, **fields):
    """RunPod where no server takes validations."""
    market = make_market(cpus=(make_cpu(),), **fields)
    return make_runpod(slots=slots, free=slots, kinds=frozenset(SlotClass), market=market)


def make_validation(submission_id="s-1"):
    return make_waiting(needs=VALIDATION, key=(submission_id, f"{submission_id}-validation"))


def test_a_validation_goes_to_a_pod_only_where_pods_take_validations():
    assert place(make_validation(), make_pods()) == {"s-1-validation": "runpod"}
    assert explain(make_validation(), make_runpod()) == (
        "no resource can run it: runpod takes no validations"
    )


def test_validations_and_trainings_never_take_more_pods_than_there_are_slots():
    validations = [make_validation(f"s-{number}") for number in range(2)]
    trainings = [make_waiting(f"i{number}") for number in range(3)]

    assert place([*trainings, *validations], make_pods(slots=3)) == {
        "s-0-validation": "runpod",
        "s-1-validation": "runpod",
        "i0": "runpod",
    }
    assert place([*trainings, *validations], make_pods(slots=2)) == {
        "s-0-validation": "runpod",
        "s-1-validation": "runpod",
    }


def test_a_validation_is_held_to_the_installations_ceiling_for_all_its_vcpus():
    assert place(make_validation(), make_pods(max_price=Decimal("0.12"))) != {}
    assert explain(make_validation(), make_pods(max_price=Decimal("0.11"))) == (
        "no resource can run it: runpod: CPU cpu3c costs $0.12/h, over the ceiling of $0.11/h"
    )


def test_a_validation_needs_no_gpu_that_is_in_stock():
    pods = make_runpod(
        kinds=frozenset(SlotClass),
        market=make_market(make_offer(stock=Stock.NONE), cpus=(make_cpu(),)),
    )

    assert place([make_waiting(), make_validation()], pods) == {"s-1-validation": "runpod"}


def test_while_runpod_shows_no_cpu_a_validation_waits_and_is_told_so():
    pods = make_runpod(kinds=frozenset(SlotClass), market=make_market())

    assert explain(make_validation(), pods) == (
        "nothing is ready: runpod: RunPod shows no CPU to rent"
    )


def test_full_pods_are_told_to_a_validation_with_their_next_end():
    full = make_full("runpod", platform=Platform.RUNPOD, market=make_market(cpus=(make_cpu(),)))

    assert explain(make_validation(), full) == "runpod is full, next free about 14:20 UTC"
    assert estimate([make_validation()], [full], now=NOW)["s-1", "s-1-validation"].p50 == (
        NOW + dt.timedelta(minutes=20)
    )


# --- servers that refuse ------------------------------------------------------------------------


def make_held(seconds, *places):
    return TaskBackoff(
        until=NOW + dt.timedelta(seconds=seconds), reason="rio1: full", places=frozenset(places)
    )


def test_a_task_keeps_away_only_from_the_servers_that_refused_it():
    task = make_waiting(backoff=make_held(60, "rio1"))

    assert place(task, make_server()) == {}
    assert place(task, make_server(), make_server("rio2")) == {"i1": "rio2"}
    assert place(task, make_server(), make_runpod(market=make_market())) == {"i1": "runpod"}
    assert place(replace(task, backoff=make_held(0, "rio1")), make_server()) == {"i1": "rio1"}


@pytest.mark.parametrize(
    ("places", "told"),
    [
        (("rio1",), "rio1: full: rio1 is not asked again before 14:10 UTC"),
        (("rio1", "runpod"), "rio1: full: no pod is tried again, nor rio1, before 14:10 UTC"),
    ],
)
def test_why_it_keeps_away_is_told_with_the_time_it_will_not(places, told):
    servers = make_server(), make_runpod(market=make_market())
    task = make_waiting(backoff=make_held(600, *places))
    if "runpod" not in places:
        task = replace(task, needs=needs(platform=Platform.ON_PREM))

    assert explain(task, *servers) == told
    assert estimate([task], servers, now=NOW)[task.key].p50 == NOW + dt.timedelta(seconds=600)


def test_an_image_that_a_server_lacks_keeps_other_images_from_nothing():
    held = make_server(held_images=(("big", "takes nothing of image big until 15:00 UTC: absent"),))

    assert place([make_waiting(needs=needs(image="small"))], held) == {"i1": "rio1"}
    assert explain(make_waiting(needs=needs(image="big")), held) == (
        "nothing is ready: rio1: takes nothing of image big until 15:00 UTC: absent"
    )
    both = [make_waiting("i1", needs=needs(image="big")), make_waiting("i2", needs=TRAINING)]
    assert place(both, held, make_server("rio2")) == {"i1": "rio2", "i2": "rio1"}


@pytest.mark.parametrize(("lacks", "goes_to"), [("cuda", "cpu1"), ("plain", "gpu1")])
def test_the_image_that_a_server_lacks_is_the_one_that_a_training_would_run_in_there(
    lacks, goes_to
):
    held_images = ((lacks, "absent"),)
    servers = (
        make_server("cpu1", held_images=held_images),
        make_server("gpu1", capability=GPU, held_images=held_images),
    )

    assert place(make_waiting(needs=needs(image="plain", image_cuda="cuda")), *servers) == {
        "i1": goes_to
    }


def test_a_task_with_one_image_takes_it_wherever_it_goes():
    held = make_server(capability=GPU, held_images=(("plain", "absent"),))
    mine, theirs = needs(image="plain"), needs(image="plain", image_cuda="cuda")
    waiting = [make_waiting("i1", needs=mine), make_waiting("i2", needs=theirs)]

    assert place(waiting, held) == {"i2": "rio1"}
    assert (
        place(make_waiting(needs=replace(VALIDATION, image="plain", image_cuda="cuda")), held) == {}
    )


def test_a_server_that_takes_no_trainings_of_one_submitter_takes_everybody_elses():
    told = "takes no trainings of ada until 15:00 UTC: a training saw no GPU"
    held = make_server(slots=3, free=3, held_labels=(("user:ada", told),))
    hers, his = (needs(labels=frozenset({f"user:{name}"})) for name in ("ada", "bob"))
    waiting = [
        make_waiting("i1", needs=hers),
        make_waiting("i2", needs=his, submitter="bob"),
        make_waiting("validation", needs=replace(hers, kind=SlotClass.VALIDATION)),
    ]

    assert place(waiting, held) == {"i2": "rio1", "validation": "rio1"}
    assert explain(waiting[0], held) == f"nothing is ready: rio1: {told}"
    assert place(waiting[:1], held, make_server("rio2")) == {"i1": "rio2"}


@pytest.mark.parametrize(
    ("kind", "resource", "gpus"),
    [
        (SlotClass.TRAINING, make_server(capability=GPU), 1),
        (SlotClass.VALIDATION, make_server(capability=GPU), 0),
        (SlotClass.TRAINING, make_server(), 0),
        (SlotClass.TRAINING, make_runpod(), 0),
    ],
    ids=["gpu", "validation", "cpu", "pod"],
)
def test_a_training_is_handed_a_gpu_where_there_is_one(kind, resource, gpus):
    assert resource.get_gpus(kind) == gpus


def test_a_server_that_takes_nothing_of_one_kind_takes_the_other():
    held = make_server(kind_blocks=((SlotClass.TRAINING, "takes no trainings until 15:00 UTC: x"),))

    assert place([make_waiting(needs=VALIDATION)], held) == {"i1": "rio1"}
    assert explain(make_waiting(), held) == (
        "nothing is ready: rio1: takes no trainings until 15:00 UTC: x"
    )


@pytest.mark.parametrize(
    ("lingering", "told"),
    [
        (1, "rio1 is full (1 slot is held by an attempt that is being ended)"),
        (2, "rio1 is full (2 slots are held by attempts that are being ended)"),
    ],
)
def test_a_slot_that_is_held_by_what_nobody_waits_for_is_told_of(lingering, told):
    assert explain(make_waiting(), make_server(free=0, lingering=lingering)) == told


# --- free disk ------------------------------------------------------------------------------------


def test_a_task_waits_for_as_much_disk_as_it_asks_for():
    asks = make_waiting(needs=needs(min_disk_gib=50))
    short, roomy = (replace(CPU, free_disk_gib=free) for free in (40, 50))

    told = explain(asks, make_server(capability=short))
    assert "rio1 has 40 GiB of free disk, it needs 50" in told
    assert place(asks, make_server(capability=roomy)) == {"i1": "rio1"}
    # Of an agent that does not tell it nobody knows better.
    assert place(asks, make_server(capability=CPU)) == {"i1": "rio1"}


def test_disk_that_is_full_now_makes_nothing_impossible():
    full = make_server(capability=replace(CPU, free_disk_gib=0))

    assert find_unfit(needs(min_disk_gib=50), full) is None
