"""The placement loop against Airflow, stores and agents in memory."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest

from fakes.placement_world import World
from fakes.servers import store_server, write_fields
from fakes.tasks import change_fields, write_task
from touchstone.airflow_db.pools import PoolsBusy
from touchstone.airflow_db.rows import VALIDATION
from touchstone.core.attempts import renew_task
from touchstone.core.phases import declare_lost
from touchstone.core.pools import FINISH_POOL, PRESTAGED_POOL, QUEUE_POOL, UNLIMITED
from touchstone.core.records.tasks import StartEstimate
from touchstone.dispatcher.placing import RECOVER_AFTER
from touchstone.services.control import set_paused
from touchstone.services.priorities import set_priority
from touchstone_agent.protocol.errors import PermanentError, TransientError
from touchstone_agent.protocol.messages import AttemptPhase, AttemptRef, Start


class Killed(BaseException):
    """The process was killed here."""


class Interrupted:
    """Starts nothing: dies, or finds its queue out of reach."""

    def __init__(self, error):
        self._error = error

    def start(self, order):
        raise self._error


@pytest.fixture
def make_world(monkeypatch):
    def make(**settings):
        return World(monkeypatch.setattr, **settings)

    return make


@pytest.fixture
def world(make_world):
    return make_world()


def pools(world, keys):
    return [world.pool(key) for key in keys]


def wait_of(world, key):
    record = world.record(key)
    name = record.submission_id, record.task_id
    return next(wait for wait in world.dispatcher.view.plan.waits if wait.key == name)


def put_prestaged(world, *intervals):
    """A server of one slot that trains, and trainings that stand ready behind it."""
    world.add_server("rio")
    running, *rest = world.submit("s-1", *intervals)
    world.settle()
    assert world.pool(running) == "rio"
    return running, *rest


def begin_attempt(world, key):
    """Let it be placed and its container run."""
    world.settle()
    world.report(key, AttemptPhase.RUNNING)


# --- placing ------------------------------------------------------------------------------------


def test_a_waiting_training_goes_to_a_free_slot_and_is_started_there(world):
    world.add_server("rio", vram_gib=24)
    (key,) = world.submit("s-1", 5)

    world.tick()

    assert world.pool(key) == "rio"
    note = world.note(key)
    assert (note["server"], note["try"], note["gpus"]) == ("rio", 1, 1)
    assert note["reason"] == "a slot of rio is free"
    assert world.starts() == []  # Airflow's scheduler has its say first

    world.run_airflow()

    assert world.state(key) == "deferred"
    assert world.starts() == [("rio", 1)]
    assert world.record(key).newest.placement.reason == note["reason"]


def test_a_validation_takes_a_validation_slot_and_no_gpu(world):
    world.add_server("rio", vram_gib=24)
    key = world.validate("s-1")

    world.tick()

    assert world.pool(key) == "rio_validation"
    assert world.note(key)["gpus"] == 0


def test_nothing_is_bound_to_a_server_before_one_is_free(world):
    """Of two full servers, the one that falls free first gets the task."""
    world.add_server("lima")
    world.add_server("rio")
    first, second, third = world.submit("s-1", 1, 5, 20)
    world.settle()
    assert sorted(pools(world, [first, second])) == ["lima", "rio"]
    assert "server" not in world.note(third)

    on_rio = first if world.pool(first) == "rio" else second
    world.dispatcher.note_exit(world.exit(on_rio))
    world.tick()

    assert world.pool(third) == "rio"


def test_a_task_without_a_record_waits_without_holding_up_others(world):
    world.add_server("rio")
    world.airflow.add("unknown", map_index=0)
    (key,) = world.submit("s-1", 5)

    world.tick()

    assert world.pool(key) == "rio"


def test_a_server_that_is_declared_but_has_no_agent_gets_nothing(world):
    store_server(world.records, {"server": "rio", "declared": {"slots": 1}})
    world.airflow.create_pool("rio", 1, "")
    (key,) = world.submit("s-1", 5)

    world.tick()

    assert world.pool(key) == QUEUE_POOL


def test_what_is_placed_but_not_begun_counts_as_its_submitters(world):
    """Otherwise whoever came first would get every slot that falls free within a second."""
    world.add_server("rio")
    first, second = world.submit("s-1", 1, 5, submitted_by="ann")
    world.advance(1)
    (other,) = world.submit("s-2", 1, submitted_by="bob")
    world.tick()
    assert world.pool(first) == "rio"

    world.airflow.set_slots("rio", 2)
    world.tick()

    assert pools(world, [second, other]) == [PRESTAGED_POOL, "rio"]


def test_who_gives_slots_back_goes_behind_one_who_had_none(world):
    """What was held of late counts too: else it were always the same ones on the same machines."""
    world.add_server("rio", slots=2)
    first, second = world.submit("s-1", 1, 5, submitted_by="ann")
    world.settle()
    world.advance(60)
    (longest,) = world.submit("s-2", 1, submitted_by="bob")
    world.advance(1)
    world.submit("s-3", 1, submitted_by="ann")
    world.advance(1)
    (another,) = world.submit("s-4", 1, submitted_by="bob")
    world.exit(first)
    world.exit(second)
    world.trigger(first)
    world.trigger(second)

    world.tick()

    assert pools(world, [longest, another]) == ["rio", "rio"]


# --- prestaged ---------------------------------------------------------------------------------


def test_the_next_trainings_are_prestaged_and_no_more_than_there_are_slots(world):
    world.add_server("rio", slots=2)
    keys = world.submit("s-1", *range(1, 8))

    world.settle()

    assert pools(world, keys) == ["rio"] * 2 + [PRESTAGED_POOL] * 2 + [QUEUE_POOL] * 3
    assert [world.state(key) for key in keys[:4]] == ["deferred"] * 4
    assert len(world.starts()) == 2


def test_never_more_trainings_are_prestaged_than_the_setting_allows(make_world):
    world = make_world(deck_size=1)
    world.add_server("rio", slots=3)
    keys = world.submit("s-1", *range(1, 8))

    world.settle()

    assert pools(world, keys).count(PRESTAGED_POOL) == 1


def test_a_task_that_no_live_server_fits_is_not_prestaged(world):
    world.add_server("rio", slots=1, ram_gib=8)
    world.add_server("lima", slots=1, ram_gib=64)
    world.silence("lima")
    world.advance(600)
    world.submit("s-0", 1)
    large, small = (
        world.submit("s-1", 1, min_ram_gib=32)[0],
        world.submit("s-2", 1)[0],
    )

    world.settle()

    assert pools(world, [large, small]) == [QUEUE_POOL, PRESTAGED_POOL]


def test_validations_are_never_prestaged(world):
    world.add_server("rio")
    keys = [world.validate(f"s-{number}") for number in range(4)]

    world.settle()

    assert pools(world, keys) == ["rio_validation"] + [QUEUE_POOL] * 3


def test_an_admin_who_closes_the_prestaged_pool_leaves_nothing_in_it(world):
    world.add_server("rio")
    keys = world.submit("s-1", 1, 5)
    world.tick()
    assert pools(world, keys) == ["rio", PRESTAGED_POOL]

    world.airflow.set_slots(PRESTAGED_POOL, 0)
    world.settle()

    assert pools(world, keys) == ["rio", QUEUE_POOL]


def test_without_the_prestaged_pool_tasks_are_placed_all_the_same(world):
    world.airflow.delete_pool(PRESTAGED_POOL)
    world.add_server("rio")
    first, second = world.submit("s-1", 1, 5)

    world.settle()
    assert world.pool(second) == QUEUE_POOL

    world.airflow.end(first)
    world.settle()
    assert world.starts(second) == [("rio", 1)]


def test_an_exit_starts_a_prestaged_training_in_the_same_tick(world):
    running, ready = put_prestaged(world, 1, 5)

    world.dispatcher.note_exit(world.exit(running))
    world.tick()

    assert (world.pool(running), world.state(running)) == (FINISH_POOL, "deferred")
    assert (world.pool(ready), world.state(ready)) == ("rio", "deferred")
    assert world.starts(ready) == [("rio", 1)]
    record = world.record(ready)
    assert (record.newest.server, record.newest.number) == ("rio", 1)
    assert record.fence == world.fences[ready]  # what its trigger waits for
    assert record.newest.placement.dump()["was_on_deck"]


def test_a_more_urgent_task_overtakes_prestaged_ones(world):
    running, ready = put_prestaged(world, 1, 5)
    (urgent,) = world.submit("s-2", 1, priority=5)
    world.settle()

    world.dispatcher.note_exit(world.exit(running))
    world.tick()

    assert pools(world, [ready, urgent]) == [PRESTAGED_POOL, "rio"]


def test_a_prestaged_training_is_in_the_queue_with_its_position(world):
    _, ready, behind = put_prestaged(world, 1, 5, 20)

    assert [wait_of(world, key).position for key in (ready, behind)] == [1, 2]


# --- crashes between decision and start ---------------------------------------------------------


def test_the_decision_is_in_the_database_before_anything_is_started(world):
    running, ready = put_prestaged(world, 1, 5)
    dying = world.make_dispatcher(Interrupted(Killed()))
    dying.note_exit(world.exit(running))

    with pytest.raises(Killed):
        world.tick(dying)

    assert world.pool(ready) == "rio"
    assert world.note(ready)["server"] == "rio"
    assert world.starts(ready) == []


def test_a_start_that_a_dead_dispatcher_owes_is_made_by_another_after_a_while(world):
    running, ready = put_prestaged(world, 1, 5)
    dying = world.make_dispatcher(Interrupted(Killed()))
    dying.note_exit(world.exit(running))
    with pytest.raises(Killed):
        world.tick(dying)
    world.airflow.end(running)

    world.advance(RECOVER_AFTER.total_seconds() - 1)
    world.tick()
    assert world.starts(ready) == []

    world.advance(1)
    world.tick()
    assert world.starts(ready) == [("rio", 1)]

    world.advance(60)
    world.tick()
    assert world.starts(ready) == [("rio", 1)]


def test_a_retry_that_a_dead_dispatcher_owes_is_started_too(world):
    """
    Its record still shows how the attempt before ended.

    That was taken for the end of this one: the task held a slot for ever and never ran.
    """
    world.add_server("rio")
    (key,) = world.submit("s-1", 5)
    begin_attempt(world, key)
    (blocker,) = world.submit("s-2", 5, priority=9)
    world.exit(key, 75)
    world.trigger(key)
    world.settle()
    world.airflow.retry(key)
    world.settle()
    assert (world.pool(blocker), world.pool(key)) == ("rio", PRESTAGED_POOL)
    dying = world.make_dispatcher(Interrupted(Killed()))
    dying.note_exit(world.exit(blocker))
    with pytest.raises(Killed):
        world.tick(dying)

    world.advance(RECOVER_AFTER.total_seconds())
    world.tick()

    assert world.starts(key) == [("rio", 1), ("rio", 2)]
    assert world.record(key).newest.number == 2


def test_a_start_fails_for_now_and_is_tried_again(world):
    running, ready = put_prestaged(world, 1, 5)
    unlucky = world.make_dispatcher(Interrupted(TransientError("the queue is away")))
    unlucky.note_exit(world.exit(running))
    world.tick(unlucky)
    world.airflow.end(running)
    unlucky._starter = world.starter  # the queue is back

    world.advance(RECOVER_AFTER.total_seconds())
    world.tick(unlucky)

    assert world.starts(ready) == [("rio", 1)]


def test_two_dispatchers_that_start_the_same_try_claim_it_once(world):
    running, ready = put_prestaged(world, 1, 5)
    world.dispatcher.note_exit(world.exit(running))
    world.tick()
    world.airflow.end(running)
    other = world.make_dispatcher()

    world.advance(RECOVER_AFTER.total_seconds())
    world.tick(other)  # the agent has not answered yet: it may never have been asked
    world.tick(other)

    assert world.starts(ready) == [("rio", 1), ("rio", 1)]
    assert world.record(ready).fence == 1
    assert world.record(ready).past == ()


def test_what_an_agent_has_answered_is_not_sent_again(world):
    running, ready = put_prestaged(world, 1, 5)
    world.dispatcher.note_exit(world.exit(running))
    world.tick()
    world.report(ready, AttemptPhase.ACCEPTED)

    world.advance(RECOVER_AFTER.total_seconds())
    world.tick(world.make_dispatcher())

    assert world.starts(ready) == [("rio", 1)]


def test_what_was_cancelled_before_it_started_is_not_started_by_recovery(world):
    running, ready = put_prestaged(world, 1, 5)
    dying = world.make_dispatcher(Interrupted(Killed()))
    dying.note_exit(world.exit(running))
    with pytest.raises(Killed):
        world.tick(dying)
    change_fields(world.records, "s-1", "i5", status="cancelled")

    world.advance(RECOVER_AFTER.total_seconds())
    world.tick()

    assert world.starts(ready) == []


# --- ends ---------------------------------------------------------------------------------------


def test_an_exit_of_an_earlier_try_frees_nothing(world):
    world.add_server("rio")
    (key,) = world.submit("s-1", 5)
    begin_attempt(world, key)
    late = world.exit(key, 75)
    world.trigger(key)
    world.tick()
    world.airflow.retry(key)
    world.settle()
    (waiting,) = world.submit("s-2", 5)

    world.dispatcher.note_exit(late)
    world.settle()

    assert (world.pool(key), world.pool(waiting)) == ("rio", PRESTAGED_POOL)


def test_an_exit_that_comes_before_the_deferral_is_remembered_until_then(world):
    """A container may be faster than the worker that sent it off."""
    world.add_server("rio")
    key, other = world.submit("s-1", 1, 5)
    world.settle()
    world.airflow.change(key, state="running")
    world.dispatcher.note_exit(world.exit(key))

    world.tick()
    assert (world.pool(key), world.state(key)) == ("rio", "running")

    world.airflow.defer(key)
    world.tick()
    assert (world.pool(key), world.pool(other)) == (FINISH_POOL, "rio")


def test_a_task_that_must_resume_on_a_worker_needs_no_slot_of_its_server(world):
    world.add_server("rio")
    key, other = world.submit("s-1", 1, 5)
    world.settle()
    world.airflow.set_slots("rio", 0)
    world.exit(key, 2)
    world.trigger(key)
    assert (world.pool(key), world.state(key)) == ("rio", "scheduled")

    world.tick()
    assert world.pool(key) == FINISH_POOL
    assert world.airflow.run_scheduler() == [key]

    world.airflow.set_slots("rio", 1)
    world.tick()
    assert world.pool(other) == "rio"


def test_a_slot_is_given_on_in_the_tick_in_which_its_task_resumes(world):
    running, ready = put_prestaged(world, 1, 5)
    world.exit(running, 2)
    world.trigger(running)

    world.tick()

    assert (world.pool(running), world.pool(ready)) == (FINISH_POOL, "rio")


@pytest.mark.parametrize("state", ["up_for_retry", "up_for_reschedule"])
def test_a_task_that_must_run_again_is_pending_at_once(world, state):
    """In the pool of its server the scheduler would start it there, whoever waits."""
    world.add_server("rio")
    key, other = world.submit("s-1", 1, 5)
    world.settle()
    world.airflow.end(key, state)

    world.tick()

    assert (world.pool(key), world.pool(other)) == (QUEUE_POOL, "rio")


def test_a_retry_that_was_faster_than_the_dispatcher_comes_back_and_is_placed(world):
    world.add_server("rio")
    (key,) = world.submit("s-1", 5)
    begin_attempt(world, key)
    world.exit(key, 75)
    world.trigger(key)
    world.airflow.retry(key)
    world.run_airflow()
    assert world.state(key) == "up_for_reschedule"
    assert world.starts() == [("rio", 1)]

    world.tick()
    assert world.pool(key) == QUEUE_POOL
    world.airflow.end(key, "scheduled")
    world.settle()

    assert world.starts() == [("rio", 1), ("rio", 2)]
    assert world.record(key).newest.number == 2


def test_a_retry_gets_a_higher_fence_and_remembers_the_first(world):
    world.add_server("rio")
    (key,) = world.submit("s-1", 5)
    begin_attempt(world, key)
    world.exit(key, 75)
    world.trigger(key)
    world.tick()
    world.airflow.retry(key)
    world.advance(301)
    world.settle()

    record = world.record(key)
    assert (record.newest.number, record.fence) == (2, 2)
    assert [item.exit_code for item in record.past] == [75]


# --- pools that admins change -------------------------------------------------------------------


def test_slots_set_to_0_send_back_what_has_not_begun_and_leave_what_runs(world):
    world.add_server("rio", slots=2)
    (running,) = world.submit("s-1", 1)
    world.settle()
    (placed,) = world.submit("s-2", 1)
    world.tick()
    assert (world.pool(placed), world.state(placed)) == ("rio", "scheduled")

    world.airflow.set_slots("rio", 0)
    world.tick()

    assert (world.pool(running), world.state(running)) == ("rio", "deferred")
    assert (world.pool(placed), world.state(placed)) == (QUEUE_POOL, "scheduled")
    assert "rio" in wait_of(world, placed).reason

    world.airflow.set_slots("rio", 2)
    world.tick()
    assert world.pool(placed) == "rio"


def test_a_slot_taken_away_sends_back_only_what_no_longer_fits(world):
    world.add_server("rio", slots=3)
    keys = world.submit("s-1", 1, 5, 20)
    world.tick()

    world.airflow.set_slots("rio", 2)
    world.tick()

    assert sorted(pools(world, keys)) == ["rio", "rio", PRESTAGED_POOL]


def test_a_drained_server_takes_no_prestaged_training(world):
    running, ready = put_prestaged(world, 1, 5)
    world.airflow.set_slots("rio", 0)

    world.dispatcher.note_exit(world.exit(running))
    world.tick()

    assert world.pool(ready) == PRESTAGED_POOL
    assert world.starts(ready) == []


def test_what_was_placed_on_a_server_that_falls_silent_goes_elsewhere(world):
    world.add_server("rio", priority=1)
    world.add_server("lima")
    (key,) = world.submit("s-1", 5)
    world.tick()
    assert world.pool(key) == "rio"

    world.silence("rio")
    world.advance(61)
    world.tick()
    assert world.pool(key) == "lima"

    world.run_airflow()
    assert world.starts() == [("lima", 1)]


def test_what_runs_on_a_silent_server_stays_there(world):
    """It is lost only when the lease is over: the server may be well and its network not."""
    world.add_server("rio")
    (key,) = world.submit("s-1", 5)
    world.settle()

    world.silence("rio")
    world.advance(61)
    world.settle()

    assert (world.pool(key), world.state(key)) == ("rio", "deferred")


def test_a_pool_deleted_while_in_use_loses_no_task(world):
    world.add_server("rio", slots=2)
    world.add_server("lima", slots=0)
    (running,) = world.submit("s-1", 1)
    world.settle()
    (placed,) = world.submit("s-2", 1)
    world.tick()
    assert (world.pool(placed), world.state(placed)) == ("rio", "scheduled")

    world.airflow.delete_pool("rio")
    world.tick()

    assert (world.pool(running), world.state(running)) == ("rio", "deferred")
    assert world.pool(placed) == QUEUE_POOL

    world.airflow.set_slots("lima", 1)
    world.settle()
    world.dispatcher.note_exit(world.exit(running))
    world.trigger(running)
    world.settle()
    assert world.state(running) == "success"
    assert world.starts(placed) == [("lima", 1)]


def test_an_unlimited_pool_takes_all(world):
    world.add_server("rio", slots=UNLIMITED)
    keys = world.submit("s-1", *range(1, 41))

    world.tick()

    assert pools(world, keys) == ["rio"] * 40


def test_deferred_tasks_hold_their_slots_whatever_the_pools_page_says(world):
    """Unticking "include deferred" would let a server be sent all that waits, at once."""
    world.add_server("rio")
    key, other = world.submit("s-1", 1, 5)
    world.settle()
    world.airflow.set_include_deferred("rio", False)

    world.settle()

    assert pools(world, [key, other]) == ["rio", PRESTAGED_POOL]


# --- pausing ------------------------------------------------------------------------------------


def test_a_pause_stops_placements_and_nothing_else(world):
    running, ready, waiting = put_prestaged(world, 1, 5, 20)
    set_paused(world.records, paused=True, by="ann", reason="heat", now=world.now)

    world.dispatcher.note_exit(world.exit(running))
    world.settle()

    assert world.pool(running) == FINISH_POOL
    assert pools(world, [ready, waiting]) == [PRESTAGED_POOL, QUEUE_POOL]
    assert world.dispatcher.view.is_paused
    assert "paused" in wait_of(world, ready).reason

    set_paused(world.records, paused=False, by="ann", reason=None, now=world.now)
    world.tick()
    assert world.pool(ready) == "rio"


def test_the_next_round_obeys_another_order(world):
    running, ready, waiting = put_prestaged(world, 1, 5, 20)
    record = world.record(waiting)
    set_priority(
        world.records,
        None,
        record.submission_id,
        task_id=record.task_id,
        priority=1,
        by="ann",
        now=world.now,
    )

    world.dispatcher.note_exit(world.exit(running))
    world.tick()

    assert pools(world, [waiting, ready]) == ["rio", PRESTAGED_POOL]


def test_nothing_is_prestaged_while_paused(world):
    world.add_server("rio")
    set_paused(world.records, paused=True, by="ann", reason=None, now=world.now)
    keys = world.submit("s-1", 1, 5)

    world.settle()

    assert pools(world, keys) == [QUEUE_POOL] * 2


# --- others at work at the same time ------------------------------------------------------------


@pytest.mark.parametrize("done", ["success", "failed", "removed"])
def test_an_instance_that_somebody_marked_meanwhile_is_left_alone(world, done):
    world.add_server("rio")
    key, other = world.submit("s-1", 1, 5)
    world.airflow.before_lock = lambda: world.airflow.end(key, done)

    world.tick()

    assert (world.pool(key), world.state(key)) == (QUEUE_POOL, done)
    assert world.note(key) == {}

    world.airflow.before_lock = lambda: None
    world.tick()
    assert world.pool(other) == "rio"  # although it was about to be prestaged


def test_a_prestaged_task_that_was_cleared_meanwhile_is_not_started(world):
    running, ready = put_prestaged(world, 1, 5)
    world.dispatcher.note_exit(world.exit(running))
    world.airflow.before_lock = lambda: world.airflow.clear(ready)

    world.tick()

    assert world.pool(ready) == QUEUE_POOL
    assert world.starts(ready) == []


def test_a_cleared_task_that_ran_is_placed_again_under_a_higher_fence(world):
    world.add_server("rio")
    (key,) = world.submit("s-1", 5)
    begin_attempt(world, key)

    world.airflow.clear(key)
    world.settle()

    assert world.starts(key) == [("rio", 1), ("rio", 2)]


def test_another_dispatchers_placement_is_seen_under_the_lock(world):
    """What was read before the lock may be old; what is free is counted under it."""
    world.add_server("rio")
    first, second = world.submit("s-1", 1, 5)
    other = world.make_dispatcher()

    def interfere():
        world.airflow.before_lock = lambda: None
        world.tick(other)

    world.airflow.before_lock = interfere
    world.tick()
    world.settle()

    assert sorted(pools(world, [first, second])) == ["rio", PRESTAGED_POOL]
    assert len(world.starts()) == 1


def test_while_a_scheduler_holds_the_pools_nothing_is_decided(world):
    world.add_server("rio")
    (key,) = world.submit("s-1", 5)
    with world.airflow.lock_pools(), pytest.raises(PoolsBusy):
        world.tick()

    assert world.pool(key) == QUEUE_POOL
    world.tick()
    assert world.pool(key) == "rio"


def test_an_exit_is_not_forgotten_when_the_pools_are_busy(world):
    running, ready = put_prestaged(world, 1, 5)
    world.dispatcher.note_exit(world.exit(running))
    with world.airflow.lock_pools(), pytest.raises(PoolsBusy):
        world.tick()

    world.tick()

    assert world.pool(ready) == "rio"


# --- where a retry may go -----------------------------------------------------------------------


def fail_attempt(world, key, code=75, **details):
    """Let the newest attempt fail, and its task become pending again."""
    world.dispatcher.note_exit(world.exit(key, code, **details))
    world.trigger(key)
    world.tick()
    world.airflow.retry(key)


def test_a_retry_goes_to_another_server_although_the_first_is_preferred(world):
    world.add_server("rio", priority=1)
    world.add_server("lima")
    (key,) = world.submit("s-1", 5)
    begin_attempt(world, key)

    fail_attempt(world, key)
    world.settle()

    assert world.starts(key) == [("rio", 1), ("lima", 2)]


def test_a_retry_waits_a_while_for_another_server_to_be_free(world):
    """However long its first attempt took: the grace begins with the failure."""
    world.add_server("lima")
    world.submit("s-0", 1, priority=9)
    world.settle()
    world.add_server("rio")
    (key,) = world.submit("s-1", 5)
    begin_attempt(world, key)
    assert world.pool(key) == "rio"
    world.advance(3600)

    fail_attempt(world, key)
    world.settle()
    assert world.pool(key) == PRESTAGED_POOL

    world.advance(301)
    world.settle()
    assert world.starts(key) == [("rio", 1), ("rio", 2)]


def test_a_retry_goes_back_to_the_only_server_there_is(world):
    world.add_server("rio")
    (key,) = world.submit("s-1", 5)
    begin_attempt(world, key)

    fail_attempt(world, key)
    world.settle()

    assert world.starts(key) == [("rio", 1), ("rio", 2)]


def test_a_server_that_was_full_is_not_avoided(world):
    world.add_server("rio", priority=1)
    world.add_server("lima")
    (key,) = world.submit("s-1", 5)
    world.settle()
    world.report(key, AttemptPhase.REJECTED, reason="no free slot", refusal="full")
    world.trigger(key)
    world.tick()
    # It is asked for nothing until it has told what it runs.
    world.advance(40)
    world.airflow.retry(key)

    world.settle()

    assert world.starts(key) == [("rio", 1), ("rio", 2)]


def test_a_task_that_ran_out_of_memory_asks_for_a_server_with_twice_as_much(world):
    world.add_server("rio", priority=1, ram_gib=7)
    world.add_server("lima", ram_gib=16)
    (key,) = world.submit("s-1", 5)
    begin_attempt(world, key)
    assert world.pool(key) == "rio"

    fail_attempt(world, key, 137, oom_killed=True)
    world.settle()

    assert world.starts(key) == [("rio", 1), ("lima", 2)]
    orders = [command for _, command, _ in world.agent.sent if isinstance(command, Start)]
    assert [order.limits.memory_mib for order in orders] == [4096, 8192]


def test_a_server_that_is_large_enough_is_not_avoided_for_memory(world):
    world.add_server("rio", priority=1, ram_gib=64)
    world.add_server("lima", ram_gib=64)
    (key,) = world.submit("s-1", 5)
    begin_attempt(world, key)

    fail_attempt(world, key, 137, oom_killed=True)
    world.settle()

    assert world.starts(key) == [("rio", 1), ("rio", 2)]


def test_a_task_too_large_for_any_server_waits_and_says_why(world):
    world.add_server("rio", ram_gib=7)
    (key,) = world.submit("s-1", 5)
    begin_attempt(world, key)

    fail_attempt(world, key, 137, oom_killed=True)
    world.settle()

    assert world.pool(key) == QUEUE_POOL
    assert "8 GiB" in wait_of(world, key).reason


def test_failures_in_an_earlier_run_do_not_count(world):
    world.add_server("rio", priority=1)
    world.add_server("lima")
    (key,) = world.submit("s-1", 5)
    begin_attempt(world, key)
    world.exit(key, 137, oom_killed=True)
    world.airflow.end(key, "failed")

    again = world.airflow.add("s-1--2", map_index=0)
    world.keys["s-1", "i5"] = again
    world.records.change_submission("s-1", lambda found: found.change(run_ids=["s-1", "s-1--2"]))
    world.records.change_task(
        "s-1",
        "i5",
        lambda found: renew_task(found, found.spec, run_id="s-1--2", map_index=0),
    )
    world.settle()

    assert world.starts(again) == [("rio", 1), ("rio", 3)]
    orders = [command for _, command, _ in world.agent.sent if isinstance(command, Start)]
    assert [order.limits.memory_mib for order in orders] == [4096, 4096]


# --- estimates ----------------------------------------------------------------------------------


def test_what_was_expected_of_a_wait_is_kept_with_the_placement(world):
    running, ready = put_prestaged(world, 1, 5)
    expected = StartEstimate(made_at=world.now, p50=world.now, p90=world.now, stretch=1.0)
    world.dispatcher.estimates = {("s-1", "i5"): expected}

    world.dispatcher.note_exit(world.exit(running))
    world.tick()

    assert world.record(ready).newest.placement.estimate == expected


def test_nothing_is_expected_of_what_did_not_wait(world):
    world.add_server("rio")
    (key,) = world.submit("s-1", 5)

    world.settle()

    assert world.record(key).newest.placement.estimate is None


# --- a long day ---------------------------------------------------------------------------------


class Day:
    """Two dispatchers, servers that come and go, crashes; everything must come to its end."""

    def __init__(self, world, seed):
        self.world = world
        self.random = random.Random(seed)
        self.world.dispatchers = [world.make_dispatcher() for _ in range(2)]
        self.running: dict[tuple[str, int], str] = {}
        self.done: dict = {}
        for number in range(3):
            world.add_server(f"server{number}", slots=number + 1)
        self.slots = {f"server{number}": number + 1 for number in range(3)}
        self.keys: list = []
        self.sent = 0

    def arrive(self):
        number = len(self.keys)
        self.keys += self.world.submit(
            f"s-{number}", 1, 5, submitted_by=self.random.choice(["ann", "bob"])
        )

    def tick(self):
        place = self.random.randrange(2)
        if self.random.random() < 0.1:
            # Killed between the decision and the start.
            dying = self.world.make_dispatcher(Interrupted(Killed()))
            dying._exited = self.world.dispatchers[place]._exited
            self.world.dispatchers[place] = self.world.make_dispatcher()
            self.world.dispatchers.pop()
            try:
                dying.tick()
            except Killed:
                return
        self.world.dispatchers[place].tick()

    def hear(self):
        """Let agents begin what they were sent; a START of a fence already seen is known."""
        for server, command, _ in self.world.agent.sent[self.sent :]:
            ref = command.ref
            key = self.world.keys[ref.submission_id, ref.task_id]
            record = self.world.record(key)
            if record.fence != ref.fence or record.newest.phase is not None:
                continue
            self.world.report(key, AttemptPhase.RUNNING)
            self.running[ref.task_key, ref.fence] = server
        self.sent = len(self.world.agent.sent)

    def finish(self):
        if not self.running:
            return
        task, fence = self.random.choice(sorted(self.running))
        submission_id, task_id = task.split("/")
        key = self.world.keys[submission_id, task_id]
        del self.running[task, fence]
        code = 0 if self.random.random() < 0.8 else 75
        record = self.world.exit(key, code)
        assert record.fence == fence
        if self.random.random() < 0.7:
            self.random.choice(self.world.dispatchers).note_exit(record)

    def drain(self):
        name = self.random.choice(sorted(self.slots))
        full = int(name[-1]) + 1
        self.slots[name] = self.random.choice([0, full])
        self.world.airflow.set_slots(name, self.slots[name])

    def run_triggers(self):
        for key in self.keys:
            if self.world.state(key) == "deferred" and self.world.fences.get(key):
                self.world.trigger(key)
            if self.world.state(key) == "up_for_retry" and self.random.random() < 0.5:
                self.world.airflow.retry(key)
            if self.world.state(key) == "up_for_reschedule":
                self.world.airflow.end(key, "scheduled")

    def check(self):
        """No server has more containers than slots it ever had; none is on two servers."""
        tasks = [task for task, _ in self.running]
        assert len(tasks) == len(set(tasks)), "one task runs twice"
        for name in self.slots:
            count = sum(server == name for server in self.running.values())
            assert count <= int(name[-1]) + 1, f"{name} runs {count}"


@pytest.mark.parametrize("seed", range(4))
def test_over_a_long_day_nothing_runs_twice_and_nothing_is_forgotten(world, seed):
    day = Day(world, seed)
    steps = [
        *([day.tick] * 5),
        *([day.hear, day.finish, day.run_triggers, world.run_airflow] * 3),
        *(day.arrive, day.drain),
    ]
    for _ in range(400):
        day.random.choice(steps)()
        day.check()
        world.advance(day.random.choice([0.1, 1, 20]))
    for name in day.slots:
        world.airflow.set_slots(name, int(name[-1]) + 1)
    for _ in range(400):
        for step in (day.tick, day.hear, day.finish, day.run_triggers, world.run_airflow):
            step()
            day.check()
        world.advance(5)
        if {world.state(key) for key in day.keys} <= {"success"}:
            break

    assert {world.state(key) for key in day.keys} == {"success"}
    assert timedelta(0) < world.now - day.world.dispatchers[0].view.now < timedelta(minutes=1)


# --- runs that wait -----------------------------------------------------------------------------


def test_runs_far_behind_in_the_queue_are_suspended_and_go_on_with_their_first_placement(
    make_world,
):
    world = make_world(warm_runs=1, deck_size=0)
    keys = [world.submit(f"s-{number}", 5)[0] for number in range(3)]
    world.tick()

    def suspended():
        return [world.airflow.instances[key].is_suspended for key in keys]

    assert suspended() == [False, True, True]
    assert [wait_of(world, key).position for key in keys] == [1, 2, 3]

    world.add_server("rio", slots=2)
    world.tick()

    assert suspended() == [False, False, True]
    assert pools(world, keys)[:2] == ["rio", "rio"]


def test_a_run_that_trains_is_never_suspended(make_world):
    world = make_world(warm_runs=0)
    world.add_server("rio")
    first, second = world.submit("s-1", 1, 5)
    world.tick()

    assert world.pool(first) == "rio"
    assert not world.airflow.instances[second].is_suspended


def test_a_validation_that_is_not_needed_again_waits_for_no_server(world):
    """Scheduling an accepted submission stood still: nobody placed what had no record."""
    key = world.airflow.add("s-1--2", VALIDATION)

    for _ in range(3):  # the scheduler may take its time
        world.tick()
        assert world.pool(key) == FINISH_POOL


def test_a_try_after_the_last_attempt_waits_for_no_server(world):
    """The only slot is taken: whoever just has to say that it failed does not need it."""
    world.add_server("rio", slots=2)
    failed, other = world.submit("s-1", 1, 5)
    world.settle()
    world.report(failed, AttemptPhase.RUNNING)
    world.exit(failed, code=2)
    world.airflow.set_slots("rio", 1)
    world.airflow.fail(failed)  # by a mistake of Airflow's: the trigger wanted it to resume
    world.airflow.retry(failed)

    world.tick()
    assert world.pool(failed) == FINISH_POOL
    world.settle()

    assert (world.state(failed), world.state(other)) == ("failed", "deferred")
    assert world.starts(failed) == [("rio", 1)]


def test_a_cleared_task_is_placed_again_although_it_may_not_be_retried(world):
    world.add_server("rio")
    (key,) = world.submit("s-1", 5)
    world.settle()
    world.dispatcher.note_exit(world.exit(key, code=2))
    world.trigger(key)
    world.airflow.clear(key)

    world.settle()

    assert world.starts(key) == [("rio", 1), ("rio", 2)]


# --- what Airflow's users may write -------------------------------------------------------------


@pytest.mark.parametrize(
    "forge",
    [
        lambda note: {**note, "server": "lima"},
        lambda note: {**note, "is_on_deck": True},
        lambda note: {key: value for key, value in note.items() if key != "seal"},
        lambda _: {"server": "lima", "try": 1},
        lambda _: {"try": 1},
    ],
    ids=["another server", "prestaged", "unsealed", "made up", "next to nothing"],
)
def test_a_placement_that_somebody_else_has_stored_is_none_and_is_decided_anew(world, forge):
    """Whoever might write into Airflow's state store chose the server himself."""
    world.add_server("rio")
    world.add_server("lima", slots=0)
    (key,) = world.submit("s-1", 5)
    world.tick()
    world.airflow.change(key, placement=forge(world.note(key)))

    world.settle()

    assert world.pool(key) == "rio"
    assert world.starts() == [("rio", 1)]


def test_a_placement_that_is_no_use_stops_nobody_elses(world):
    world.add_server("rio", slots=2)
    odd, _ = world.submit("s-1", 1, 5)
    world.airflow.change(odd, placement={"try": 1, "at": 7, "server": ["rio"]}, pool="rio")

    world.settle()

    assert sorted(world.starts()) == [("rio", 1), ("rio", 1)]


def test_a_training_of_a_run_that_has_none_on_record_is_let_through_to_say_so(world):
    """It waited for ever: nobody told that its record was gone, or another run's."""
    world.add_server("rio")
    (key,) = world.submit("s-1", 5)
    change_fields(world.records, "s-1", "i5", run_id="s-1--2")

    world.settle()

    assert world.pool(key) == FINISH_POOL
    assert world.state(key) == "failed"
    assert world.starts() == []


def test_a_strangers_run_is_not_placed_as_the_submission_that_its_id_stands_for(world):
    world.add_server("rio", slots=2)
    (own,) = world.submit("s-1", 5)
    stranger = world.airflow.add("s-1--2", map_index=0)
    validation = world.airflow.add("s-1--2", VALIDATION, -1)

    world.tick()

    assert pools(world, [own, stranger, validation]) == ["rio", FINISH_POOL, FINISH_POOL]


# --- one bad record stops nobody ----------------------------------------------------------------


def test_a_task_that_was_refused_again_and_again_keeps_nobody_elses_from_being_placed(world):
    """At the 43rd refusal in a row its pause overflowed: nothing was placed any more."""
    world.add_server("rio")
    (unlucky,) = world.submit("s-1", 5, platform="runpod")
    (other,) = world.submit("s-2", 5, submitted_by="bob")
    refused = {
        "run_id": "s-1",
        "failure_class": "budget",
        "outcome": "failed(infrastructure)",
        "server": "runpod",
        "phase": "rejected",
    }
    past = [{**refused, "attempt": number, "fence": number} for number in range(1, 43)]
    newest = {"attempts": past, "attempt": 43, "fence": 43, "status": "error", "reason": "budget"}
    change_fields(
        world.records, "s-1", "i5", **{**refused, **newest, "ended_at": world.now.isoformat()}
    )

    world.tick()

    assert world.pool(other) == "rio"
    assert unlucky not in {key for key, _ in world.starts()}


@pytest.mark.parametrize(
    "odd",
    [
        {"ended_at": "yesterday"},
        {"created_at": 7, "queued_at": None},
        {"config": None},
        {"queued_at": "yesterday"},
        {"fence": "x"},
        {"attempt": None},
        {"map_index": "x"},
        {"kind": "dancing"},
    ],
)
def test_a_task_whose_record_makes_no_sense_keeps_no_other_from_being_placed(world, odd):
    world.add_server("rio", slots=2)
    world.submit("s-1", 5)
    (other,) = world.submit("s-2", 5)
    write_task(world.records, ("s-1", "i5"), odd)

    world.settle()

    assert world.pool(other) == "rio"


@pytest.mark.parametrize(
    "odd",
    [
        {"heartbeat_at": "never"},
        {"heartbeat_at": 7},
        {"inventory": {"slots": "many"}},
        {"inventory": {"gpus": [7]}},
        {"declared": {"priority": "high"}},
        {"declared": 7},
        {"declared": {"allow": [7]}},
        {"declared": {"vram_gib": "x"}},
        {"running": 7},
        {"holds": 7},
    ],
)
def test_a_server_whose_record_makes_no_sense_keeps_no_other_from_being_used(world, odd):
    world.add_server("a-odd", priority=9)
    world.add_server("rio")
    (key,) = world.submit("s-1", 5)
    write_fields(world.records, "a-odd", odd)

    world.settle()

    assert world.pool(key) == "rio"


@pytest.mark.parametrize("odd", [{"fence": "x"}, {"attempt": None}, {"config": 7}])
def test_a_running_task_whose_record_makes_no_sense_keeps_no_other_from_being_placed(world, odd):
    world.add_server("rio", slots=2)
    world.submit("s-1", 5)
    world.settle()
    write_task(world.records, ("s-1", "i5"), odd)
    (other,) = world.submit("s-2", 5)

    world.tick(world.make_dispatcher())

    assert world.pool(other) == "rio"


@pytest.mark.parametrize("note", [{"at": "never"}, {"at": 7}, {"at": None, "was_on_deck": True}])
def test_a_placement_that_makes_no_sense_keeps_no_other_from_being_made(world, note):
    world.add_server("rio", slots=2)
    (first,) = world.submit("s-1", 5)
    world.settle()
    placed = world.airflow.instances[first]
    world.airflow.change(first, placement={**placed.placement, **note})
    (other,) = world.submit("s-2", 5)

    world.settle()

    assert world.pool(other) == "rio"


@pytest.mark.parametrize("unread", [("s-1",), ("s-2",), ("s-3",), ("s-1", "s-2")])
def test_a_submission_that_cannot_be_read_keeps_no_other_from_being_placed(
    world, monkeypatch, unread
):
    """Where the first one that failed ended the round, it could be the first of every round."""
    world.add_server("rio", slots=3)
    keys = {name: world.submit(name, 5)[0] for name in ("s-1", "s-2", "s-3")}
    read = world.records.list_tasks

    def list_tasks(submission_id):
        if submission_id in unread:
            raise TransientError("throttled")
        return read(submission_id)

    with monkeypatch.context() as patch:
        patch.setattr(world.records, "list_tasks", list_tasks)
        for _ in range(3):
            world.settle()
        for name, key in keys.items():
            assert world.pool(key) == (QUEUE_POOL if name in unread else "rio")

    world.settle()
    assert {world.pool(key) for key in keys.values()} == {"rio"}


def test_a_validation_that_cannot_be_read_is_not_taken_for_one_that_is_not_needed(
    world, monkeypatch
):
    world.add_server("rio")
    key = world.validate("s-1")

    def fail(_):
        raise PermanentError("no leave")

    with monkeypatch.context() as patch:
        patch.setattr(world.records, "list_tasks", fail)
        world.tick()
        assert world.pool(key) == QUEUE_POOL

    world.settle()
    assert world.pool(key) == "rio_validation"


def test_a_start_that_fails_for_whatever_reason_is_one_tasks_and_tried_again(world):
    keys = put_prestaged(world, 1, 5, 20)
    failing = world.make_dispatcher(Interrupted(KeyError("config")))
    world.airflow.set_slots("rio", 3)

    world.tick(failing)
    assert len([key for key in keys if world.pool(key) == "rio"]) == 3
    world.advance(RECOVER_AFTER.total_seconds() + 1)
    world.settle()

    assert len(world.starts()) == 3


# --- servers that refuse ------------------------------------------------------------------------


def bounce(world, key, refuse, rounds):
    """Let one server refuse a task, again and again; return where it was sent."""
    seen = []
    for _ in range(rounds):
        world.settle()
        if world.state(key) != "deferred" or world.pool(key) == PRESTAGED_POOL:
            world.advance(60)  # nothing takes it now
            continue
        server = world.record(key).newest.server
        seen.append(server)
        if server not in refuse:
            break
        details = {"refusal": refuse[server]} if refuse[server] else {}
        world.report(key, AttemptPhase.REJECTED, "10 MiB free, 1034 MiB wanted", **details)
        world.trigger(key)
        assert world.state(key) == "up_for_retry"
        world.advance(10)
        world.airflow.retry(key)
    return seen


@pytest.mark.parametrize("refusal", ["disk", "gpu", "image", "full", "drained", None])
def test_a_server_that_refuses_gets_no_second_try_while_another_is_free(world, refusal):
    """It took all 99 tries of a task while another server stood free."""
    world.add_server("bad", slots=4)
    world.add_server("good", slots=2)
    (key,) = world.submit("s-1", 5)

    assert bounce(world, key, {"bad": refusal}, 99) == ["bad", "good"]


@pytest.mark.parametrize("refusal", ["disk", "gpu", "image"])
def test_a_server_that_refused_one_task_is_no_black_hole_for_all_others(world, refusal):
    world.add_server("bad", slots=4, priority=9)
    world.add_server("good", slots=9)
    (first,) = world.submit("s-1", 5)
    bounce(world, first, {"bad": refusal}, 1)

    others = world.submit("s-2", 1, 5, 20, submitted_by="bob")
    world.settle()

    assert {world.pool(key) for key in others} == {"good"}


def test_a_server_that_lacks_an_image_takes_others(world):
    world.add_server("bad", priority=9)
    (first,) = world.submit("s-1", 5, image="big")
    bounce(world, first, {"bad": "image"}, 1)

    (other,) = world.submit("s-2", 5, image="small")
    world.settle()

    assert world.pool(other) == "bad"
    assert "takes nothing of image big until 12:01 UTC" in wait_of(world, first).reason


def test_a_server_that_lacks_the_image_for_its_gpus_takes_what_runs_in_the_other(world):
    world.add_server("bad", vram_gib=24)
    (first,) = world.submit("s-1", 5, image="plain", image_cuda="cuda")
    bounce(world, first, {"bad": "image"}, 1)

    validation = world.validate("s-2", image="plain")
    world.settle()

    assert world.pool(validation) == "bad_validation"
    assert "takes nothing of image cuda until 12:01 UTC" in wait_of(world, first).reason


def test_a_server_that_turns_out_to_lack_an_image_gets_no_more_of_it(world):
    """It had taken the task, and lost it a second later, and took the next one."""
    world.add_server("bad", slots=4, priority=9)
    world.add_server("good", slots=4)
    (first,) = world.submit("s-1", 5, image="big")
    world.settle()
    world.report(first, AttemptPhase.ACCEPTED)
    world.report(first, AttemptPhase.LOST, "image big is not on this server", refusal="image")
    world.trigger(first)
    world.tick()
    world.airflow.retry(first)

    (same,) = world.submit("s-2", 5, image="big")
    (other,) = world.submit("s-3", 5, image="small")
    world.settle()

    assert world.record(first).past[0].failure_class == "image"
    assert pools(world, (first, same, other)) == ["good", "good", "bad"]


def test_a_server_that_refuses_is_tried_again_later_and_less_and_less_often(world):
    """Without any other server its tries must outlast what is wrong with this one."""
    world.add_server("bad", slots=2)
    (key,) = world.submit("s-1", 5)
    began = world.now

    tries = len(bounce(world, key, {"bad": "disk"}, 600))

    assert (world.now - began) > timedelta(hours=8)
    assert tries < 40


def test_why_a_server_takes_nothing_is_told_until_it_does(world):
    world.add_server("bad")
    (key,) = world.submit("s-1", 5)
    bounce(world, key, {"bad": "disk"}, 1)
    world.tick()
    assert wait_of(world, key).reason.endswith(
        "nothing is ready: bad: takes nothing until 12:01 UTC: 10 MiB free, 1034 MiB wanted"
    )

    world.advance(120)
    world.settle()
    world.report(key, AttemptPhase.ACCEPTED)
    assert world.records.find_server("bad").holds == {}


def test_a_pool_that_is_larger_than_its_agent_refuses_nothing(world):
    """Airflow's pool had four slots, the agent took one at a time: three tasks bounced for ever."""
    world.add_server("rio", slots=4, takes=1)
    keys = world.submit("s-1", 1, 5, 20)

    world.settle()

    assert len(world.starts()) == 1
    assert sorted(pools(world, keys)).count("rio") == 1
    (server,) = (item for item in world.dispatcher.view.resources if item.name == "rio")
    assert (server.slots, server.free) == (1, 0)


# --- GPUs and the images for them ---------------------------------------------------------------

CUDA = {"require_cuda": True, "image": "plain", "image_cuda": "cuda"}
BLIND = {"outcome": "failed", "class": "device", "reason": "no GPU: JAX sees none"}


def list_images(world):
    """Return what was started where, and in which image."""
    starts = [command for _, command, _ in world.agent.sent if isinstance(command, Start)]
    servers = [server for server, _ in world.starts()]
    return {server: start.image for server, start in zip(servers, starts, strict=True)}


def see_no_gpu(world, key):
    """Let a training end because its trainer sees no GPU."""
    world.report(key, AttemptPhase.RUNNING)
    world.report(key, AttemptPhase.EXITED, exit_code=75, verdict=BLIND, files=[])
    world.trigger(key)
    world.tick()


def test_each_training_runs_in_the_image_that_fits_what_it_is_given(world):
    world.add_server("gpu", vram_gib=24)
    world.add_server("cpu")
    keys = world.submit("s-1", 1, 5, image="plain", image_cuda="cuda")
    world.settle()

    assert list_images(world) == {"gpu": "cuda", "cpu": "plain"}
    assert {world.pool(key): world.record(key).newest.image for key in keys} == list_images(world)


def test_a_training_with_an_image_of_its_own_has_it_everywhere(world):
    world.add_server("gpu", vram_gib=24)
    world.add_server("cpu")
    world.submit("s-1", 1, 5, image="mine")
    world.settle()

    assert list_images(world) == {"gpu": "mine", "cpu": "mine"}


def test_a_validation_on_a_server_with_a_gpu_has_the_plain_image(world):
    world.add_server("gpu", vram_gib=24)
    world.validate("s-1", image="plain", image_cuda="cuda")
    world.settle()

    assert list_images(world) == {"gpu": "plain"}


@pytest.mark.parametrize(
    "forge",
    [
        lambda note: {**note, "gpus": 1},
        lambda note: {**note, "image": "evil:1"},
        lambda _: {"server": "cpu", "try": 1, "gpus": 1, "image": "evil:1", "image_cuda": "evil:1"},
    ],
    ids=["a gpu", "an image", "made up"],
)
def test_no_image_is_taken_from_where_airflows_users_may_write(world, forge):
    world.add_server("cpu")
    (key,) = world.submit("s-1", 5, image="plain", image_cuda="cuda")
    world.tick()
    world.airflow.change(key, placement=forge(world.note(key)))

    world.settle()

    assert list_images(world) == {"cpu": "plain"}
    assert (world.record(key).newest.image, world.record(key).newest.gpus) == ("plain", 0)


def test_what_a_gpu_costs_is_kept_with_the_placement(world):
    world.add_server("gpu", vram_gib=24, gpu_price_per_hour=0.35)
    (key,) = world.submit("s-1", 5)
    world.settle()

    assert world.record(key).newest.placement.gpu_price_per_hour == 0.35


def test_a_gpu_that_a_training_does_not_see_eats_no_other_of_its_submitter(world):
    """A server whose driver is broken is free again within seconds, and took task after task."""
    world.add_server("bad", slots=4, vram_gib=24, priority=9)
    world.add_server("good", slots=9, vram_gib=24)
    (first,) = world.submit("s-1", 5, **CUDA)
    world.settle()
    assert world.pool(first) == "bad"

    see_no_gpu(world, first)
    assert world.record(first).newest.outcome == "failed(infrastructure)"
    world.advance(10)
    world.airflow.retry(first)
    others = world.submit("s-2", 1, 5, 20, **CUDA)
    validation = world.validate("s-3")
    world.settle()

    assert pools(world, [first, *others]) == ["good"] * 4
    assert world.pool(validation) == "bad_validation"


def test_one_submitters_word_puts_a_server_out_of_nobody_elses_service(world):
    """Submitted code can say that it sees no GPU, as often as it likes."""
    world.add_server("rio", slots=4, vram_gib=24, priority=9)
    world.add_server("lima", slots=9, vram_gib=24)
    for number in range(3):
        (key,) = world.submit(f"evil-{number}", 5, submitted_by="eve", **CUDA)
        world.settle()
        if world.pool(key) == "rio":
            see_no_gpu(world, key)

    (honest,) = world.submit("s-1", 5, submitted_by="ann")
    world.settle()

    assert world.pool(honest) == "rio"


def test_a_gpu_that_two_submitters_do_not_see_is_left_alone_by_all_until_one_sees_it(world):
    world.add_server("bad", slots=4, vram_gib=24, priority=9)
    world.add_server("good", slots=9, vram_gib=24)
    for name in ("ann", "bob"):
        (key,) = world.submit(f"of-{name}", 5, submitted_by=name, **CUDA)
        world.settle()
        assert world.pool(key) == "bad"
        see_no_gpu(world, key)

    (third,) = world.submit("s-3", 5, submitted_by="cem", **CUDA)
    world.settle()
    assert world.pool(third) == "good"

    world.advance(120)
    (fourth,) = world.submit("s-4", 5, submitted_by="cem", **CUDA)
    world.settle()
    assert world.pool(fourth) == "bad", "it is tried again after a while"
    world.exit(fourth)
    assert world.records.find_server("bad").holds == {}


def test_a_training_that_went_on_without_a_gpu_says_nothing_of_it(world):
    """One that only prefers CUDA ends well on the CPU of a server whose driver is broken."""
    world.add_server("bad", slots=4, vram_gib=24)
    (blind,) = world.submit("s-1", 5, submitted_by="ann", **CUDA)
    world.settle()
    see_no_gpu(world, blind)
    (other,) = world.submit("s-2", 5, submitted_by="bob")
    world.settle()

    world.exit(other)

    assert world.records.find_server("bad").holds


def test_an_image_that_is_not_for_gpus_says_nothing_of_a_server(world):
    """Without TOUCHSTONE_TRAINER_IMAGE_CUDA no training sees a GPU anywhere."""
    world.add_server("rio", slots=4, vram_gib=24)
    (key,) = world.submit("s-1", 5, require_cuda=True)
    world.settle()

    see_no_gpu(world, key)

    assert world.record(key).newest.failure_class == "device"
    assert not world.records.find_server("rio").holds


# --- a server that comes back -------------------------------------------------------------------


@pytest.fixture
def partitioned(world):
    """A training that was lost with its server, and runs elsewhere when the server is back."""
    world.add_server("rio", takes=1)
    (key,) = world.submit("s-1", 5)
    world.settle()
    old = world.record(key).ref
    world.report(key, AttemptPhase.RUNNING)
    world.silence("rio")
    world.advance(1000)
    world.add_server("lima", takes=1)
    world.records.change_task(
        "s-1",
        "i5",
        lambda task: declare_lost(task, fence=task.fence, reason="silent", now=world.now),
    )
    world.trigger(key)
    world.tick()
    world.airflow.retry(key)
    world.settle()
    assert world.starts(key) == [("rio", 1), ("lima", 2)]
    return key, old


def test_the_slot_of_an_outranked_attempt_is_held_until_its_agent_says_otherwise(
    world, partitioned
):
    """Its server was free by Airflow's count, and refused whatever was sent to it as full."""
    _, old = partitioned
    world.revive("rio")
    world.show("rio", (old, "running"))
    (waiting,) = world.submit("s-2", 5, submitted_by="bob")

    world.settle()
    assert world.starts(waiting) == []
    assert wait_of(world, waiting).reason.startswith(
        "lima and rio are full (1 slot is held by an attempt that is being ended)"
    )
    world.show("rio")
    world.settle()

    assert world.starts(waiting) == [("rio", 1)]


def test_the_same_slot_is_never_given_to_two_of_one_task(world, partitioned):
    """A newer attempt of the same task on the same server is not the one that still runs there."""
    key, old = partitioned
    world.revive("rio")
    world.show("rio", (old, "running"))
    world.airflow.set_slots("lima", 0)
    world.report(key, AttemptPhase.LOST)
    world.trigger(key)
    world.tick()
    world.airflow.retry(key)

    world.settle()
    assert world.starts(key) == [("rio", 1), ("lima", 2)]
    world.show("rio")
    world.settle()

    assert world.starts(key) == [("rio", 1), ("lima", 2), ("rio", 3)]


def test_a_validation_that_lingers_holds_no_slot_for_trainings(world):
    world.add_server("rio", takes=1)
    stray = AttemptRef(submission_id="s-9", task_id="validation", attempt=1, fence=1)
    world.show("rio", (stray, "running"))
    (training,) = world.submit("s-1", 5)
    validation = world.validate("s-2")

    world.settle()

    assert world.pool(training) == "rio"
    assert world.pool(validation) == QUEUE_POOL


def test_what_an_inventory_still_shows_of_an_ended_attempt_holds_up_nobody(world):
    """The next training starts at once, and not after the server's next heartbeat."""
    world.add_server("rio", takes=1)
    first, second = world.submit("s-1", 1, 5)
    world.settle()
    world.show("rio", (world.record(first).ref, "running"))
    assert world.starts(second) == []

    world.dispatcher.note_exit(world.exit(first))
    world.settle()

    assert world.starts(second) == [("rio", 1)]


def test_what_a_server_was_just_sent_counts_once_whether_it_shows_it_or_not(world):
    world.add_server("rio", slots=2, takes=2)
    first, second = world.submit("s-1", 1, 5)
    world.settle()
    assert len(world.starts()) == 2
    world.airflow.set_slots("rio", 3)
    world.records.change_server(
        "rio", lambda server: server.change(inventory=server.inventory.change(slots=3))
    )
    refs = [world.record(key).ref for key in (first, second)]
    world.show("rio", (refs[0], "accepted"))
    (third,) = world.submit("s-2", 5)

    world.settle()

    assert world.starts(third) == [("rio", 1)]
