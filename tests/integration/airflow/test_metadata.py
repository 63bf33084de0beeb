"""
What the dispatcher does to Airflow's tables, on each database and on the fake of the unit tests.

Whoever brings another Airflow sees here first what it changes.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest
from airflow.models.dagrun import DagRun
from airflow.models.pool import Pool
from airflow.models.task_state_store import TaskStateStoreModel
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from touchstone.airflow_db import runs
from touchstone.airflow_db.pools import (
    MAX_NOTE_CHARACTERS,
    PLACEMENT_KEY,
    PoolsBusy,
)
from touchstone.airflow_db.rows import SUSPENDED_UNTIL, TRAINING, VALIDATION
from touchstone.core.pools import FINISH_POOL, PRESTAGED_POOL, QUEUE_POOL
from touchstone_agent.protocol.errors import PermanentError


def read(airflow, key):
    """Return one instance as the dispatcher sees it."""
    return next(item for item in airflow.read_instances() if item.key == key)


def place(airflow, key, pool, **placement):
    instance = read(airflow, key)
    with airflow.lock_pools() as locked:
        return locked.place(instance, pool, {**placement, "try": instance.try_number})


# --- what this relies on ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "columns"),
    [
        (TaskInstance, "id dag_id run_id task_id map_index try_number state pool next_method"),
        (TaskInstance, "scheduled_dttm pool_slots"),
        (DagRun, "id dag_id run_id state"),
        (Pool, "id pool slots description include_deferred"),
        (TaskStateStoreModel, "dag_run_id dag_id run_id task_id map_index key value updated_at"),
    ],
)
def test_the_columns_that_this_relies_on_are_there(model, columns):
    assert set(columns.split()) <= {column.name for column in model.__table__.columns}


def test_a_placement_is_unique_for_each_instance_in_the_state_store():
    """Two dispatchers that write the first placement of a task at once: one of them must fail."""
    table = TaskStateStoreModel.__table__
    uniques = [
        {column.name for column in constraint.columns}
        for constraint in table.constraints
        if type(constraint).__name__ == "UniqueConstraint"
    ]
    assert {"dag_run_id", "task_id", "map_index", "key"} in uniques


def test_the_states_of_task_instances_are_those_that_are_known():
    """A state that Airflow adds may be one in which a task waits, or holds a slot."""
    assert {state.value for state in TaskInstanceState} == {
        *("scheduled", "queued", "running", "deferred", "up_for_retry", "up_for_reschedule"),
        *("success", "failed", "skipped", "upstream_failed", "removed", "restarting"),
        "awaiting_input",
    }


def test_the_scheduler_counts_a_pools_instances_as_placement_does(real_airflow):
    """A deferred instance holds its slot; a scheduled one does not yet."""
    real_airflow.create_pool("rio", 5, "")
    for index, state in enumerate(["scheduled", "queued", "running", "deferred"]):
        key = real_airflow.add("s-1", map_index=index)
        real_airflow.change(key, pool="rio", state=state)

    with create_session() as session:
        stats = Pool.slots_stats(session=session)["rio"]

    assert stats["open"] == 2
    assert stats["scheduled"] == stats["queued"] == stats["running"] == stats["deferred"] == 1


# --- reading ------------------------------------------------------------------------------------


def test_an_instance_is_read_with_all_that_placement_needs(airflow):
    key = airflow.add("s-1", map_index=2)

    instance = read(airflow, key)

    assert (instance.key, instance.try_number) == (("s-1", TRAINING, 2), 1)
    assert (instance.state, instance.pool) == ("scheduled", QUEUE_POOL)
    assert instance.placement is None
    assert not instance.is_resuming
    assert instance.ready_at is not None
    assert instance.ready_at.tzinfo is not None
    assert instance.is_waiting


@pytest.mark.parametrize(
    ("state", "is_seen"),
    [
        *((state, True) for state in ("scheduled", "queued", "running", "deferred")),
        *((state, True) for state in ("up_for_retry", "up_for_reschedule")),
        *((state, False) for state in ("success", "failed", "skipped", "removed")),
        *((state, False) for state in ("upstream_failed", "restarting")),
    ],
)
def test_only_what_may_need_a_slot_is_read(airflow, state, is_seen):
    key = airflow.add("s-1", VALIDATION)
    airflow.change(key, state=state)

    assert [item.key for item in airflow.read_instances()] == ([key] if is_seen else [])


def test_tasks_of_other_dags_and_other_steps_are_not_ours(real_airflow):
    real_airflow.add("s-1", dag_id="another")
    real_airflow.add("s-1", "collect")

    assert real_airflow.read_instances() == []


@pytest.mark.parametrize(
    ("state", "pool", "is_resuming", "is_waiting", "is_prestaged"),
    [
        ("scheduled", QUEUE_POOL, False, True, False),
        ("scheduled", PRESTAGED_POOL, False, True, False),
        ("deferred", PRESTAGED_POOL, False, True, True),
        ("running", PRESTAGED_POOL, False, False, False),
        ("scheduled", QUEUE_POOL, True, False, False),
        ("scheduled", "rio", False, False, False),
        ("deferred", "rio", False, False, False),
        ("up_for_retry", QUEUE_POOL, False, False, False),
    ],
)
def test_what_waits_is_told_by_state_and_pool(
    airflow, state, pool, is_resuming, is_waiting, is_prestaged
):
    key = airflow.add("s-1", map_index=0)
    airflow.change(key, state=state, pool=pool, is_resuming=is_resuming)

    instance = read(airflow, key)

    assert (instance.is_waiting, instance.is_prestaged) == (is_waiting, is_prestaged)
    assert instance.is_resuming == is_resuming


def test_a_deferred_instance_is_not_resuming_although_it_has_a_method_to_resume_with(real_airflow):
    key = real_airflow.add("s-1", map_index=0)
    real_airflow.change(key, state="deferred", is_resuming=True)
    assert not read(real_airflow, key).is_resuming

    real_airflow.change(key, state="scheduled")
    assert read(real_airflow, key).is_resuming


# --- placing and moving -------------------------------------------------------------------------


def test_a_placement_is_stored_with_the_move(airflow):
    airflow.create_pool("rio", 1, "")
    key = airflow.add("s-1", map_index=0)

    assert place(airflow, key, "rio", server="rio", reason="a slot of rio is free")

    instance = read(airflow, key)
    assert instance.pool == "rio"
    assert instance.placement == {"server": "rio", "reason": "a slot of rio is free", "try": 1}
    assert instance.is_placed


def test_a_placement_of_an_earlier_try_counts_as_none(airflow):
    key = airflow.add("s-1", map_index=0)
    place(airflow, key, "rio", server="rio")
    airflow.change(key, try_number=2)
    assert not read(airflow, key).is_placed

    place(airflow, key, "lima", server="lima")

    placement = read(airflow, key).placement
    assert placement == {"server": "lima", "try": 2}


def test_each_instance_has_its_own_placement(airflow):
    first, second = airflow.add("s-1", map_index=0), airflow.add("s-1", map_index=1)
    place(airflow, first, "rio", server="rio")

    assert read(airflow, second).placement is None


def test_the_operator_finds_the_placement_where_it_looks(real_airflow):
    """The task state store is read by run, task and map index; the value is JSON."""
    key = real_airflow.add("s-1", map_index=3)
    place(real_airflow, key, "rio", server="rio")

    with create_session() as session:
        row = session.scalar(select(TaskStateStoreModel))
        assert (row.run_id, row.task_id, row.map_index) == key
        assert row.key == PLACEMENT_KEY == "placement"
        assert json.loads(row.value) == {"server": "rio", "try": 1}
        assert row.updated_at is not None


@pytest.mark.parametrize(
    "value",
    [
        *("", "{", "null", "[]", "5", '"rio"', "[[1, 2]]"),
        *("[" * 5_000, '{"a": "' + "x" * MAX_NOTE_CHARACTERS + '"}'),
    ],
    ids=str.__len__,
)
def test_what_somebody_else_has_stored_there_is_no_placement(real_airflow, value):
    """Airflow lets its users write into the store: one odd value stopped all placement."""
    key, other = real_airflow.add("s-1", map_index=0), real_airflow.add("s-1", map_index=1)
    for each in (key, other):
        place(real_airflow, each, "rio", server="rio")
    with create_session() as session:
        session.execute(update(TaskStateStoreModel).filter_by(map_index=0).values(value=value))

    assert read(real_airflow, key).placement is None
    assert not read(real_airflow, key).is_placed
    assert read(real_airflow, other).is_placed


@pytest.mark.parametrize(
    "change",
    [
        {"state": "failed"},
        {"state": "queued"},
        {"pool": "elsewhere"},
        {"try_number": 2},
    ],
    ids=lambda change: "".join(change),
)
def test_what_changed_since_it_was_read_is_left_alone(airflow, change):
    key = airflow.add("s-1", map_index=0)
    old = read(airflow, key)
    airflow.change(key, **change)

    with airflow.lock_pools() as locked:
        assert not locked.place(old, "rio", {"server": "rio"})
        assert not locked.move(old, FINISH_POOL)

    airflow.change(key, state="scheduled")
    now = read(airflow, key)
    assert now.placement is None
    assert now.pool == change.get("pool", QUEUE_POOL)


def test_a_cleared_instance_is_another_one_although_it_looks_the_same(airflow):
    """Clearing gives it a new id; what was decided of the old one must not reach it."""
    key = airflow.add("s-1", map_index=0)
    old = read(airflow, key)
    airflow.change(key, id=uuid.uuid4())

    with airflow.lock_pools() as locked:
        assert not locked.move(old, "rio")


def test_an_instance_can_be_sent_back_and_placed_again_in_one_round(airflow):
    key = airflow.add("s-1", map_index=0)
    place(airflow, key, "rio", server="rio")
    old = read(airflow, key)

    with airflow.lock_pools() as locked:
        assert locked.move(old, QUEUE_POOL)
        assert locked.place(replace(old, pool=QUEUE_POOL), "lima", {"server": "lima"})

    assert read(airflow, key).pool == "lima"
    assert read(airflow, key).placement == {"server": "lima"}


def test_nothing_stays_of_a_round_that_fails(airflow):
    first, second = airflow.add("s-1", map_index=0), airflow.add("s-1", map_index=1)
    one, other = read(airflow, first), read(airflow, second)

    def decide():
        with airflow.lock_pools() as locked:
            assert locked.place(one, "rio", {"server": "rio"})
            assert locked.move(other, "rio")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        decide()

    assert [read(airflow, key).pool for key in (first, second)] == [QUEUE_POOL] * 2
    assert read(airflow, first).placement is None


# --- pools --------------------------------------------------------------------------------------


def test_pools_are_counted_as_they_are_under_the_lock(airflow):
    airflow.create_pool("rio", 4, "")
    for index, state in enumerate(["scheduled", "queued", "running", "deferred", "success"]):
        airflow.change(airflow.add("s-1", map_index=index), pool="rio", state=state)

    with airflow.lock_pools() as locked:
        rio, prestaged = locked.pools["rio"], locked.pools[PRESTAGED_POOL]

    assert (rio.slots, rio.open) == (4, 1)
    assert (rio.scheduled, rio.queued, rio.running, rio.deferred) == (1, 1, 1, 1)
    assert rio.include_deferred
    assert (prestaged.slots, prestaged.open) == (-1, float("inf"))
    assert airflow.read_pools()["rio"] == rio


def test_a_pool_without_its_deferred_ones_says_so(airflow):
    airflow.create_pool("rio", 1, "")
    airflow.change(airflow.add("s-1", map_index=0), pool="rio", state="deferred")
    airflow.set_include_deferred("rio", False)

    rio = airflow.read_pools()["rio"]

    assert (rio.open, rio.deferred, rio.include_deferred) == (1, 1, False)


def test_a_pool_is_created_once(airflow):
    assert airflow.create_pool("rio", 2, "the large one")
    assert not airflow.create_pool("rio", 5, "")

    assert airflow.read_pools()["rio"].slots == 2


def test_slots_are_changed_and_what_is_deferred_counts_again(airflow):
    airflow.create_pool("rio", 2, "")
    airflow.set_include_deferred("rio", False)

    assert airflow.set_slots("rio", 0) == 2

    rio = airflow.read_pools()["rio"]
    assert (rio.slots, rio.include_deferred) == (0, True)
    with pytest.raises(PermanentError, match="rome"):
        airflow.set_slots("rome", 1)


def test_slots_are_exchanged_only_for_what_was_seen(airflow):
    airflow.create_pool("rio", 2, "")
    airflow.set_include_deferred("rio", False)

    assert not airflow.exchange_slots("rio", 1, expected=3)
    assert airflow.read_pools()["rio"].slots == 2
    assert airflow.exchange_slots("rio", 1, expected=2)
    rio = airflow.read_pools()["rio"]
    assert (rio.slots, rio.include_deferred) == (1, True)
    assert not airflow.exchange_slots("rome", 1, expected=0)


def test_a_deleted_pool_is_gone_and_its_instances_are_not(airflow):
    airflow.create_pool("rio", 1, "")
    key = airflow.add("s-1", map_index=0)
    airflow.change(key, pool="rio")

    airflow.delete_pool("rio")

    assert "rio" not in airflow.read_pools()
    assert read(airflow, key).pool == "rio"


# --- the lock -----------------------------------------------------------------------------------


def test_two_dispatchers_never_decide_at_once(airflow):
    failures = in_other_thread(airflow, lambda: enter(airflow))

    assert isinstance(failures[0], PoolsBusy)
    enter(airflow)  # and it is free again afterwards


def enter(airflow):
    with airflow.lock_pools():
        pass


def in_other_thread(airflow, work):
    """Do something in another thread while this one holds the pools; return what it raised."""
    raised = []

    def run():
        try:
            work()
        except Exception as error:
            raised.append(error)

    with airflow.lock_pools():
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    return raised


def take_as_scheduler():
    """Take the lock of the scheduler's own critical section, as it does, and change something."""
    with create_session(scoped=False) as session:
        Pool.slots_stats(lock_rows=True, session=session)
        session.execute(
            TaskInstance.__table__.update()
            .where(TaskInstance.__table__.c.task_id == TRAINING)
            .values(state="queued")
        )


def test_a_scheduler_is_refused_while_a_dispatcher_decides(real_airflow):
    key = real_airflow.add("s-1", map_index=0)

    raised = in_other_thread(real_airflow, take_as_scheduler)

    assert isinstance(raised[0], OperationalError)
    assert read(real_airflow, key).state == "scheduled"
    take_as_scheduler()
    assert read(real_airflow, key).state == "queued"


def test_a_dispatcher_is_refused_at_once_while_a_scheduler_decides(postgresql_airflow):
    with create_session(scoped=False) as session:
        Pool.slots_stats(lock_rows=True, session=session)

        # One that waited would wait for ever: it is this thread that has the lock.
        with pytest.raises(PoolsBusy):
            enter(postgresql_airflow)

    enter(postgresql_airflow)


def test_a_session_opened_while_the_pools_are_held_does_not_let_go_of_them(real_airflow):
    """Airflow's sessions are one per thread: what reads a connection would end the transaction."""
    real_airflow.create_pool("rio", 1, "")
    key = real_airflow.add("s-1", map_index=0)
    instance = read(real_airflow, key)

    def decide():
        with real_airflow.lock_pools() as locked:
            locked.move(instance, "rio")
            real_airflow.read_pools()
            raise ZeroDivisionError

    with suppress(ZeroDivisionError):
        decide()

    assert read(real_airflow, key).pool == QUEUE_POOL


def test_an_admins_edit_waits_until_a_round_is_over(postgresql_airflow):
    postgresql_airflow.create_pool("rio", 2, "")
    done = threading.Event()

    def edit():
        postgresql_airflow.set_slots("rio", 0)
        done.set()

    with postgresql_airflow.lock_pools() as locked:
        thread = threading.Thread(target=edit)
        thread.start()
        assert not done.wait(0.5)
        assert locked.pools["rio"].slots == 2
    thread.join()

    assert postgresql_airflow.read_pools()["rio"].slots == 0


# --- many at once -------------------------------------------------------------------------------


class Crowd:
    """Dispatchers that place whatever they can, and an Airflow that works it off."""

    def __init__(self, airflow, slots, keys):
        self.airflow = airflow
        self.slots = slots
        self.keys = keys
        self.placed: Counter = Counter()
        self.most: Counter = Counter()
        self._failed = threading.Event()
        self._round = threading.Semaphore(0)

    @property
    def is_at_work(self):
        return not self._failed.is_set() and self.placed.total() < len(self.keys)

    def work(self):
        """Let three dispatchers and an Airflow work until all is placed, or one of them fails."""
        with ThreadPoolExecutor() as pool:
            works = [self.dispatch, self.dispatch, self.dispatch, self.work_off]
            for done in [pool.submit(self._try, work) for work in works]:
                done.result()

    def _try(self, work):
        try:
            work()
        except BaseException:
            self._failed.set()
            raise

    def dispatch(self):
        while self.is_at_work:
            instances = [item for item in self.airflow.read_instances() if item.is_waiting]
            with suppress(PoolsBusy, OperationalError):
                with self.airflow.lock_pools() as locked:
                    placed = [
                        key for name in self.slots for key in self._fill(locked, name, instances)
                    ]
                self.placed.update(placed)
            self._round.release()

    def _fill(self, locked, name, instances):
        facts = locked.pools[name]
        held = int(facts.slots - facts.open + facts.scheduled)
        self.most[name] = max(self.most[name], held)
        chosen = [instances.pop(0) for _ in range(min(len(instances), facts.slots - held))]
        return [item.key for item in chosen if locked.place(item, name, {"server": name})]

    def work_off(self):
        following = {"scheduled": "queued", "queued": "running", "running": "success"}
        while self.is_at_work:
            self._round.acquire(timeout=1)
            for instance in self.airflow.read_instances():
                if instance.pool in self.slots:
                    with suppress(OperationalError):
                        self.airflow.change(instance.key, state=following[instance.state])


def test_many_dispatchers_at_once_fill_each_pool_once(real_airflow):
    """Each reads before it holds the lock, so all of them decide on what is old by then."""
    slots = {"rio": 3, "lima": 2, "oslo": 1}
    for name, number in slots.items():
        real_airflow.create_pool(name, number, "")
    keys = {real_airflow.add("s-1", map_index=index) for index in range(24)}
    crowd = Crowd(real_airflow, slots, keys)

    crowd.work()

    assert set(crowd.placed.elements()) == keys, "some were forgotten"
    assert set(crowd.placed.values()) == {1}, "some were placed twice"
    assert crowd.most <= Counter(slots)


# --- suspended runs -----------------------------------------------------------------------------


def suspend(airflow, *keys):
    runs = [read(airflow, key).dag_run_pk for key in keys]
    with airflow.lock_pools() as locked:
        return locked.suspend(runs)


def read_run(run_id):
    with create_session() as session:
        return session.scalar(select(DagRun).where(DagRun.run_id == run_id))


def test_a_run_of_which_all_trainings_wait_is_suspended_and_seen_all_the_same(airflow):
    first, second = airflow.add("s-1", map_index=0), airflow.add("s-1", map_index=1)
    other = airflow.add("s-2", map_index=0)

    assert suspend(airflow, first) == 1

    assert [read(airflow, key).is_suspended for key in (first, second, other)] == [
        True,
        True,
        False,
    ]
    assert read(airflow, first).is_waiting


@pytest.mark.parametrize(
    "change",
    [
        {"pool": "rio"},
        {"pool": PRESTAGED_POOL},
        {"state": "queued"},
        {"state": "deferred"},
        {"state": "up_for_retry"},
    ],
    ids=str,
)
def test_a_run_with_anything_else_to_do_is_not_suspended(airflow, change):
    waiting, busy = airflow.add("s-1", map_index=0), airflow.add("s-1", map_index=1)
    airflow.change(busy, **change)

    assert suspend(airflow, waiting) == 0
    assert not read(airflow, waiting).is_suspended


@pytest.mark.parametrize("state", ["scheduled", "queued", "running", "up_for_retry"])
def test_a_run_with_another_step_at_work_is_not_suspended(real_airflow, state):
    waiting = real_airflow.add("s-1", map_index=0)
    real_airflow.add("s-1", "plan", state=state)

    assert suspend(real_airflow, waiting) == 0


@pytest.mark.parametrize("state", [None, "success", "skipped"])
def test_steps_that_are_done_or_still_to_come_keep_no_run_from_being_suspended(real_airflow, state):
    waiting = real_airflow.add("s-1", map_index=0)
    real_airflow.add("s-1", "evaluate", state=state)

    assert suspend(real_airflow, waiting) == 1


@pytest.mark.parametrize("state", [None, "success"])
def test_a_run_whose_trainings_are_not_all_there_or_not_all_waiting_is_not_suspended(
    real_airflow, state
):
    """Before it is expanded there is one training without a state."""
    waiting = real_airflow.add("s-1", map_index=0)
    real_airflow.add("s-1", map_index=1, state=state)

    assert suspend(real_airflow, waiting) == 0


def test_airflow_itself_never_starts_a_suspended_run(real_airflow):
    waiting = real_airflow.add("s-1", map_index=0)

    suspend(real_airflow, waiting)

    run = read_run("s-1")
    assert run.state == "queued"
    assert run.run_after == SUSPENDED_UNTIL


def test_a_run_that_airflow_has_queued_or_ended_is_not_suspended(real_airflow):
    waiting = real_airflow.add("s-1", map_index=0)
    with create_session() as session:
        session.scalar(select(DagRun)).state = "failed"

    assert suspend(real_airflow, waiting) == 0
    assert read_run("s-1").state == "failed"


def test_the_first_placement_sets_its_run_going_again(real_airflow):
    first, second = (real_airflow.add("s-1", map_index=index) for index in range(2))
    asked_for_at = read_run("s-1").queued_at or read_run("s-1").start_date
    suspend(real_airflow, first)

    assert place(real_airflow, first, "rio", server="rio")

    assert [read(real_airflow, key).is_suspended for key in (first, second)] == [False, False]
    assert (read_run("s-1").state, read_run("s-1").run_after) == ("running", asked_for_at)


def test_a_placement_resumes_a_run_only_with_its_move(airflow):
    key = airflow.add("s-1", map_index=0)
    suspend(airflow, key)
    stale = replace(read(airflow, key), state="queued")

    with airflow.lock_pools() as locked:
        assert not locked.place(stale, "rio", {"server": "rio"})

    assert read(airflow, key).is_suspended


def test_a_placement_that_was_read_before_the_run_was_suspended_resumes_it_too(airflow):
    """Another dispatcher may have suspended it in between; the scheduler would not look at it."""
    key = airflow.add("s-1", map_index=0)
    old = read(airflow, key)
    suspend(airflow, key)

    with airflow.lock_pools() as locked:
        assert locked.place(old, "rio", {"server": "rio"})

    assert not read(airflow, key).is_suspended


def test_a_run_that_a_scheduler_looks_at_is_not_waited_for(postgresql_airflow):
    """It holds such rows for as long as it takes to look at twenty runs."""
    key, other = postgresql_airflow.add("s-1", map_index=0), postgresql_airflow.add("s-2")
    with create_session(scoped=False) as session:
        session.scalar(select(DagRun).where(DagRun.run_id == "s-1").with_for_update())

        # One that waited would wait for ever: it is this thread that has the row.
        assert suspend(postgresql_airflow, key, other) == 1
    assert suspend(postgresql_airflow, key, other) == 1


@pytest.mark.parametrize(
    "change", [{"state": "success"}, {"state": None}, {"pool": "rio"}], ids=str
)
def test_a_suspended_run_that_a_user_has_changed_is_airflows_again(real_airflow, change):
    key = real_airflow.add("s-1", map_index=0)
    untouched = real_airflow.add("s-2", map_index=0)
    suspend(real_airflow, key, untouched)
    real_airflow.change(key, **change)

    assert runs.release_suspended() == 1

    assert read_run("s-1").run_after < SUSPENDED_UNTIL
    assert read_run("s-2").run_after == SUSPENDED_UNTIL


# --- runs ---------------------------------------------------------------------------------------


def test_run_states_and_ended_instances_are_found(real_airflow):
    ended = real_airflow.add("s-1", map_index=0)
    real_airflow.change(ended, state="failed")
    real_airflow.add("s-1", map_index=1)
    real_airflow.add("s-2", map_index=0)

    assert runs.find_run_states(["s-1", "s-2", "s-3"]) == {"s-1": "running", "s-2": "running"}
    assert runs.find_ended_instances(["s-1", "s-2"]) == {ended}
    assert runs.find_run_states([]) == {}
    assert runs.find_ended_instances([]) == set()
