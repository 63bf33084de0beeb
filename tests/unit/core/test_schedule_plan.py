"""What a plan says of a schedule: the same as placement, estimates and prices do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from touchstone.core.durations import Duration, DurationKey, History
from touchstone.core.eligibility import (
    Capability,
    Needs,
    Resource,
    Running,
    find_impossible,
)
from touchstone.core.estimates import estimate
from touchstone.core.fairness import TaskBackoff, Waiting
from touchstone.core.market import Market
from touchstone.core.offers import GpuOffer, Stock
from touchstone.core.outlook import STALE, Outlook, build_outlook
from touchstone.core.placement import Snapshot, plan
from touchstone.core.pods import Cloud
from touchstone.core.schedule import Placement, Platform, Schedule
from touchstone.core.schedule_plan import GUESSED, NO_OUTLOOK, PlannedSubmission, plan_schedule
from touchstone_agent.protocol.messages import SlotClass

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
HOUR = Duration(p50_seconds=3600, p90_seconds=7200)
KNOWN = ((DurationKey(kind=SlotClass.TRAINING), HOUR),)
OFFER = GpuOffer(
    gpu="NVIDIA GeForce RTX 4090",
    name="RTX 4090",
    memory_gb=24,
    cloud=Cloud.SECURE,
    price_per_hour=Decimal("0.50"),
    stock=Stock.HIGH,
)


def server(name="rio", *, slots=1, free=1, cuda=False, **fields):
    return Resource(
        name=name, slots=slots, free=free, capability=Capability(cuda=cuda, vram_gib=24), **fields
    )


def pods(*offers, slots=5, **market):
    anything = float("inf")
    return Resource(
        name="runpod",
        platform=Platform.RUNPOD,
        slots=slots,
        free=slots,
        capability=Capability(cuda=True, vram_gib=anything, ram_gib=anything),
        market=Market(offers=offers or (OFFER,), **market),
    )


def see(*resources, waiting=(), durations=KNOWN, **facts):
    """Return an outlook as a reader has it: written, and read again."""
    snapshot = Snapshot(now=NOW, waiting=waiting, resources=resources, **facts)
    return Outlook.model_validate_json(
        build_outlook(snapshot, stretch=1.0, durations=durations).model_dump_json()
    )


def ask(outlook, *, intervals="5", ids=("s-1",), wall_seconds=86400, now=NOW, **fields):
    schedule = Schedule(intervals=intervals, **fields)
    submissions = [
        PlannedSubmission(
            submission_id=each,
            submitter="ann",
            needs=Needs(kind=SlotClass.TRAINING, placement=schedule.placement),
            system="feature_set",
        )
        for each in ids
    ]
    return plan_schedule(submissions, schedule, outlook, wall_seconds=wall_seconds, now=now)


def wait(key, *, submitter="ben", needs=None, **fields):
    return Waiting(
        key=key,
        needs=needs or Needs(kind=SlotClass.TRAINING),
        since=NOW - timedelta(minutes=1),
        submitter=submitter,
        expected=HOUR,
        **fields,
    )


def test_what_fits_a_free_slot_starts_there_at_once():
    (task,) = ask(see(server()), seed=7).tasks

    assert (task.submission_id, task.task_id, task.interval, task.seed) == ("s-1", "i5", 5, 7)
    assert (task.place, task.position) == ("rio", None)
    assert task.reason == "a slot of rio is free"
    assert (task.start_p50, task.start_p90) == (NOW, NOW)
    assert task.finish_p50 == NOW + timedelta(hours=1)
    assert task.finish_p90 == NOW + timedelta(hours=2)


def test_several_seeds_take_as_often_as_long_as_one_that_is_known():
    (task,) = ask(see(server()), seed=7, seed_count=2).tasks

    assert (task.seed, task.seed_count) == (7, 2)
    assert task.finish_p50 == NOW + timedelta(hours=2)
    assert task.finish_p90 == NOW + timedelta(hours=4)


def test_the_second_interval_waits_for_the_first_in_the_words_of_placement():
    first, second = ask(see(server()), intervals="1,5").tasks

    assert (first.place, second.place) == ("rio", None)
    assert (second.position, second.reason) == (1, "rio is full")
    assert second.start_p50 > NOW
    assert second.finish_p50 > second.start_p50


def test_several_submissions_share_what_is_free():
    tasks = ask(see(server(slots=3, free=3)), intervals="1,5", ids=("s-1", "s-2")).tasks

    assert [(task.submission_id, task.task_id) for task in tasks] == [
        ("s-1", "i1"),
        ("s-1", "i5"),
        ("s-2", "i1"),
        ("s-2", "i5"),
    ]
    assert sum(task.place == "rio" for task in tasks) == 3


def test_a_plan_decides_and_estimates_as_the_queue_itself_would():
    running = (Running(ends_p50=NOW + timedelta(minutes=9), ends_p90=NOW + timedelta(minutes=20)),)
    resources = [server(slots=2, free=1, running=running), server("gpu", cuda=True)]
    backoff = TaskBackoff(until=NOW + timedelta(hours=1), reason="no pod")
    waiting = [
        wait(("b-1", "i1"), order=0),
        wait(("b-1", "i2"), order=1),
        wait(("c-1", "i1"), avoid=frozenset({"rio"}), backoff=backoff),
    ]
    usage = {"ben": 1.0}

    (task,) = ask(see(*resources, waiting=waiting, usage=usage)).tasks

    mine = Waiting(
        key=("s-1", "i5"),
        needs=Needs(kind=SlotClass.TRAINING),
        since=NOW,
        submitter="ann",
        expected=HOUR,
    )
    seen = Snapshot(now=NOW, waiting=[*waiting, mine], resources=resources, usage=usage)
    start = estimate(seen)["s-1", "i5"]
    decided = {each.key: each for each in (*plan(seen).placements, *plan(seen).waits)}
    assert task.reason == decided["s-1", "i5"].reason
    assert (task.start_p50, task.start_p90) == (start.p50, start.p90)


def test_what_no_resource_can_run_says_so_as_a_refusal_would():
    needs = Needs(kind=SlotClass.TRAINING, placement=Placement(require_cuda=True))

    plan_ = ask(see(server()), require_cuda=True)

    (task,) = plan_.tasks
    assert task.reason == find_impossible(needs, [server()])
    assert (task.place, task.start_p50, task.finish_p90) == (None, None, None)
    assert (task.usd_low, task.price_reason) == (None, "no resource can run it")
    assert (plan_.finish_p50, plan_.usd_high) == (None, None)


def test_paused_placements_start_nothing():
    (task,) = ask(see(server(), is_paused=True)).tasks

    assert (task.place, task.reason, task.start_p50) == (None, "placements are paused", None)


@pytest.mark.parametrize("age", [None, STALE + timedelta(seconds=1)])
def test_without_a_dispatcher_nobody_can_say(age):
    outlook = None if age is None else see(server())

    plan_ = ask(outlook, now=NOW + (age or timedelta()), intervals="1,5")

    assert [task.task_id for task in plan_.tasks] == ["i1", "i5"]
    assert {(task.reason, task.start_p50, task.usd_low) for task in plan_.tasks} == {
        (NO_OUTLOOK, None, None)
    }
    assert plan_.price_reason == f"2 of 2 trainings have no price: {NO_OUTLOOK}"


# --- durations ---------------------------------------------------------------------------------


def test_the_narrowest_known_kind_says_how_long_a_training_takes():
    narrow = DurationKey(
        kind=SlotClass.TRAINING, system="feature_set", config_file="fast.toml", interval=5
    )
    outlook = see(server(), durations=[*KNOWN, (narrow, Duration(p50_seconds=60, p90_seconds=90))])

    (fast,) = ask(outlook, config_file="fast.toml").tasks
    (other,) = ask(outlook, config_file="slow.toml").tasks

    assert fast.finish_p50 == NOW + timedelta(seconds=60)
    assert other.finish_p50 == NOW + timedelta(hours=1)


def test_a_first_training_is_a_guess_and_says_so():
    assert ask(see(server(), durations=())).remarks == (GUESSED,)
    assert ask(see(server())).remarks == ()


def test_a_training_ends_with_its_longest_time():
    (own,) = ask(see(server()), max_hours=1.5).tasks
    (installation,) = ask(see(server()), wall_seconds=600).tasks

    assert own.finish_p90 == NOW + timedelta(hours=1.5)
    assert installation.finish_p50 == installation.finish_p90 == NOW + timedelta(minutes=10)


def test_of_more_kinds_than_are_told_the_newest_are():
    history = History()
    for interval in range(1, 9):
        key = DurationKey(kind=SlotClass.TRAINING, system="feature_set", interval=interval)
        history.add(key, 60.0 * interval)

    told = dict(history.list_known(SlotClass.TRAINING, limit=5))

    assert len(told) == 5
    # Wider kinds are as new as the newest of theirs.
    assert {key.interval for key in told} >= {8, None}
    assert not {key.interval for key in told} & {1, 2, 3}
    assert history.list_known(SlotClass.VALIDATION, limit=5) == []


# --- prices ------------------------------------------------------------------------------------


def test_a_pod_costs_its_offer_for_as_long_as_it_trains():
    plan_ = ask(see(pods()), intervals="1,5")

    first = plan_.tasks[0]
    assert (first.place, first.usd_low, first.usd_high) == ("runpod", "0.5000", "1.0000")
    assert first.price_reason == "runpod: $0.50/h for NVIDIA GeForce RTX 4090 in SECURE cloud"
    assert (plan_.usd_low, plan_.usd_high, plan_.price_reason) == ("1.0000", "2.0000", None)


def test_a_share_of_a_servers_gpu_costs_its_share():
    outlook = see(server(cuda=True, gpu_price_per_hour=0.8, gpu_shares=4))

    (task,) = ask(outlook).tasks

    assert (task.usd_low, task.usd_high) == ("0.2000", "0.4000")
    assert "rio: $0.2/h" in task.price_reason


@pytest.mark.parametrize(
    ("resource", "words"),
    [
        (server(), "rio: it gives no GPU"),
        (server(cuda=True), "rio: no price of its GPU is declared"),
    ],
)
def test_a_price_that_nobody_has_said_is_none_and_never_zero(resource, words):
    plan_ = ask(see(resource))

    assert (plan_.tasks[0].usd_low, plan_.tasks[0].usd_high) == (None, None)
    assert words in plan_.tasks[0].price_reason
    assert (plan_.usd_low, plan_.usd_high) == (None, None)
    assert words in plan_.price_reason


def test_what_waits_costs_as_it_does_where_it_may_go():
    full = server(cuda=True, free=0, gpu_price_per_hour=0.1)
    (task,) = ask(see(full, pods(slots=0)), intervals="5").tasks

    assert task.place is None
    # A pool without slots takes nothing, so only the server counts.
    assert (task.usd_low, task.usd_high) == ("0.1000", "0.2000")


def test_a_gpu_over_the_ceiling_has_no_price():
    (task,) = ask(see(pods(), server()), platform="any", max_price="0.4").tasks

    assert task.place == "rio"
    assert task.usd_low is None


def test_a_sum_above_the_budget_is_told():
    assert "the budget is $0.7" in ask(see(pods()), budget="0.7").remarks[0]
    assert ask(see(pods()), budget="5").remarks == ()


def test_an_outlook_loses_nothing_that_placement_decides_by():
    needs = Needs(kind=SlotClass.TRAINING, labels=frozenset({"user:ben"}), image="a:1")
    waiting = [wait((f"b-{n}", "i1"), needs=needs, order=n, priority=n % 2) for n in range(5)]
    resources = [server(deny=("user:ben",), held_images=(("a:1", "no"),)), pods(max_price=None)]

    outlook = see(*resources, waiting=waiting, weights={"ben": 2.0})

    again = outlook.build_snapshot([], outlook.build_resources(), NOW)
    assert sorted(again.waiting, key=lambda each: each.key) == waiting
    assert list(again.resources) == resources
    assert again.weights == {"ben": 2.0}


def test_validations_are_none_of_a_plans_business():
    needs = Needs(kind=SlotClass.VALIDATION)
    assert see(server(), waiting=[wait(("b-1", "validation"), needs=needs)]).waiting == ()
