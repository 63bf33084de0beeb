"""RunPod as placement's resource: with a connection, without, and when it does not answer."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from fakes.airflow_pools import FakeAirflow
from fakes.placement_world import World
from fakes.runpod_account import FakeRunPodHook, make_offer
from fakes.stores import FakeRecordStore
from touchstone.core.offers import Stock
from touchstone.core.pods import Balance
from touchstone.core.records.notes import RentalNote
from touchstone.dispatcher.runpod_watcher import STALE, RunPodWatcher
from touchstone.hooks.runpod.errors import ServiceUnavailable
from touchstone.settings import Settings
from touchstone_agent.protocol.errors import TransientError


@pytest.fixture
def hook():
    return FakeRunPodHook()


@pytest.fixture
def pools(clock):
    return FakeAirflow(clock)


@pytest.fixture
def records():
    return FakeRecordStore()


@pytest.fixture
def runpod_watcher(clock, pools, records, hook):
    return RunPodWatcher(
        settings=Settings(), pools=pools, notes=records, clock=clock, find=lambda _: hook
    )


def build(runpod_watcher):
    return runpod_watcher.build_resource(slots=2, free=2, running=(), takes_validations=True)


def test_without_a_connection_there_is_no_such_resource_and_no_pool(clock, pools, records):
    runpod_watcher = RunPodWatcher(
        settings=Settings(), pools=pools, notes=records, clock=clock, find=lambda _: None
    )
    runpod_watcher.refresh()

    assert build(runpod_watcher) is None
    assert "runpod" not in pools.pools


def test_a_connection_brings_a_pool_without_slots_for_an_admin_to_open(runpod_watcher, pools):
    runpod_watcher.refresh()

    assert pools.pools["runpod"].slots == 0
    assert build(runpod_watcher).block is None


def test_a_pool_that_is_there_keeps_its_slots(runpod_watcher, pools):
    pools.create_pool("runpod", 5, "")
    runpod_watcher.refresh()

    assert pools.pools["runpod"].slots == 5


def test_a_runpod_that_does_not_answer_takes_nothing_and_says_why(runpod_watcher, hook):
    hook.error = ServiceUnavailable("GET /v2/catalog/gpus: 503")
    runpod_watcher.refresh()

    assert "503" in build(runpod_watcher).block


def test_without_the_money_for_an_hour_nothing_is_rented(runpod_watcher, hook):
    hook.balance = Balance(usd=Decimal("0.20"), spend_per_hour=Decimal())
    runpod_watcher.refresh()

    assert "balance is $0.20" in build(runpod_watcher).block


def test_a_balance_that_nobody_tells_keeps_nothing_back(runpod_watcher, hook):
    hook.balance = ServiceUnavailable("GraphQL: 410")
    runpod_watcher.refresh()

    assert build(runpod_watcher).block is None


def test_a_low_balance_is_warned_of_once_until_it_was_good_again(
    runpod_watcher, hook, clock, caplog
):
    def look(usd):
        hook.balance = Balance(usd=Decimal(usd), spend_per_hour=Decimal())
        clock.advance(minutes=5)
        runpod_watcher.refresh()
        return sum("balance is low" in record.message for record in caplog.records)

    assert [look(49), look(48), look(90), look(49)] == [1, 1, 1, 2]


def test_a_low_balance_is_mailed_by_one_dispatcher_once(clock, pools, records, hook):
    mails = []

    def make_dispatcher():
        return RunPodWatcher(
            settings=Settings(),
            pools=pools,
            notes=records,
            clock=clock,
            find=lambda _: hook,
            warn=lambda subject, text: mails.append((subject, text)),
        )

    def look(usd, *dispatchers):
        hook.balance = Balance(usd=Decimal(usd), spend_per_hour=Decimal("0.7"))
        clock.advance(minutes=5)
        for dispatcher in dispatchers:
            dispatcher.refresh()
        return len(mails)

    one, two = make_dispatcher(), make_dispatcher()
    assert [look(49, one, two), look(48, one, two)] == [1, 1]
    assert look(47, make_dispatcher()) == 1, "one that was started again knows"
    assert [look(90, one, two), look(49, two, one)] == [1, 2]
    subject, text = mails[0]
    assert subject == "RunPod's balance is low: $49.00"
    assert "under $50.00" in text
    assert "$0.70 per hour" in text


def test_a_mail_that_was_not_sent_is_sent_with_the_next_look(clock, pools, records, hook, caplog):
    hook.balance = Balance(usd=Decimal(49), spend_per_hour=Decimal())
    answers = [TransientError("the mail was not sent"), None]

    def warn(subject, text):
        if (answer := answers.pop(0)) is not None:
            raise answer

    runpod_watcher = RunPodWatcher(
        settings=Settings(), pools=pools, notes=records, clock=clock, find=lambda _: hook, warn=warn
    )
    for _ in range(4):
        clock.advance(minutes=5)
        runpod_watcher.refresh()

    assert answers == []
    assert "the mail was not sent; trying again" in caplog.text


def test_facts_that_nobody_renews_are_none(runpod_watcher, clock):
    runpod_watcher.refresh()
    clock.now += STALE + timedelta(seconds=1)

    assert build(runpod_watcher).block == "it was not asked for a while"


# --- within the placement loop ------------------------------------------------------------------


@pytest.fixture
def world(monkeypatch, hook):
    world = World(monkeypatch.setattr)
    world.runpod = hook
    world.airflow.create_pool("runpod", 1, "")
    world.runpod_watcher.refresh()
    return world


def test_an_any_task_spills_to_runpod_when_no_server_is_free_and_not_before(world):
    world.add_server("rio")
    first, second = world.submit("s-1", 1, 5)

    world.tick()

    assert (world.pool(first), world.pool(second)) == ("rio", "runpod")
    assert world.note(second)["platform"] == "runpod"
    assert world.note(second)["gpus"] == 0


def test_a_placed_pod_is_claimed_and_nothing_is_sent_to_any_agent(world):
    (key,) = world.submit("s-1", 5, platform="runpod")

    world.settle()

    record = world.record(key)
    assert (record.newest.platform, record.newest.server, record.newest.number) == (
        "runpod",
        "runpod",
        1,
    )
    assert record.newest.container == "touchstone-dev-s-1-i5-1-1"
    assert world.agent.sent == []
    assert world.state(key) == "deferred"


def test_a_prestaged_task_is_claimed_for_a_pod_that_falls_free(world):
    world.add_server("rio")
    on_rio, in_pod, ready = world.submit("s-1", 1, 5, 20)
    world.settle()
    assert world.pool(ready) == "touchstone_deck"

    world.airflow.end(in_pod)
    world.settle()

    assert world.pool(ready) == "runpod"
    assert world.record(ready).newest.platform == "runpod"
    assert [server for server, _ in world.starts()] == ["rio"]
    assert world.pool(on_rio) == "rio"


def test_what_is_out_of_stock_waits_and_goes_when_it_is_there(world, hook):
    hook.offers = (make_offer(stock=Stock.NONE),)
    world.runpod_watcher.refresh()
    (key,) = world.submit("s-1", 5, platform="runpod")
    world.settle()
    assert world.pool(key) == "touchstone_queue"

    hook.offers = (make_offer(),)
    world.runpod_watcher.refresh()
    world.settle()

    assert world.pool(key) == "runpod"


def test_a_pool_without_slots_pauses_renting(world):
    world.airflow.set_slots("runpod", 0)
    (key,) = world.submit("s-1", 5, platform="runpod")

    world.settle()

    assert world.pool(key) == "touchstone_queue"


def test_money_that_runs_out_is_noted_for_whoever_shows_it(runpod_watcher, records, hook):
    hook.balance = Balance(usd=Decimal("12.5"), spend_per_hour=Decimal("0.7"))
    runpod_watcher.refresh()

    noted = records.find_note(RentalNote)
    assert (noted.is_connected, noted.is_low, str(noted.balance_usd)) == (True, True, "12.5")
    assert noted.block is None, "there is still enough for an hour"


# --- validations in pods ------------------------------------------------------------------------


def test_where_no_server_takes_validations_they_go_to_pods(world):
    world.add_server("rio", validation_slots=0)
    key = world.validate("s-1")

    world.settle()

    assert world.pool(key) == "runpod"
    assert (world.record(key).newest.platform, world.record(key).newest.server) == (
        "runpod",
        "runpod",
    )
    assert world.note(key)["reason"] == "a slot of runpod is free, and none on-prem that fits"
    assert world.agent.sent == []


def test_where_there_is_no_server_at_all_validations_go_to_pods(world):
    key = world.validate("s-1")

    world.settle()

    assert (world.pool(key), world.state(key)) == ("runpod", "deferred")


def test_a_validation_waits_for_a_busy_server_rather_than_take_a_pod(world):
    world.add_server("rio")
    first, second = world.validate("s-1"), world.validate("s-2")

    world.settle()

    assert (world.pool(first), world.pool(second)) == ("rio_validation", "touchstone_queue")


def test_a_validation_waits_for_a_silent_server_too(world):
    world.add_server("rio")
    world.silence("rio")
    world.advance(3600)
    world.runpod_watcher.refresh()
    key = world.validate("s-1")

    world.settle()

    assert world.pool(key) == "touchstone_queue"
    [wait] = world.dispatcher.view.plan.waits
    assert wait.reason.startswith("nothing is ready: rio is silent since")


def test_a_server_that_is_drained_leaves_validations_to_pods(world):
    world.add_server("rio")
    world.airflow.set_slots("rio_validation", 0)
    key = world.validate("s-1")

    world.settle()

    assert world.pool(key) == "runpod"


def test_both_kinds_share_the_slots_of_runpod(world):
    world.airflow.set_slots("runpod", 2)
    trainings = world.submit("s-1", 1, 5, platform="runpod")
    validation = world.validate("s-2")

    world.settle()

    assert world.pool(validation) == "runpod"
    assert sorted(world.pool(key) for key in trainings) == ["runpod", "touchstone_queue"]

    world.airflow.end(validation)
    world.settle()

    assert {world.pool(key) for key in trainings} == {"runpod"}


def test_without_slots_for_pods_a_validation_waits_and_is_told_so(world):
    world.add_server("rio", validation_slots=0)
    world.airflow.set_slots("runpod", 0)
    world.validate("s-1")

    world.settle()

    [wait] = world.dispatcher.view.plan.waits
    assert wait.reason == "nothing is ready: rio has no slots, runpod has no slots"


def test_a_catalogue_of_cpus_that_is_not_told_keeps_no_training_back(world, hook):
    hook.cpus = ServiceUnavailable("GET /v2/catalog/cpus: 503")
    world.runpod_watcher.refresh()
    (training,) = world.submit("s-1", 5, platform="runpod")
    world.airflow.set_slots("runpod", 2)
    world.validate("s-2")

    world.settle()

    assert world.pool(training) == "runpod"
    [wait] = world.dispatcher.view.plan.waits
    assert wait.reason == "nothing is ready: runpod: RunPod shows no CPU to rent"
