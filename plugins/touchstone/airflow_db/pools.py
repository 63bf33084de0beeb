"""Pools, the task instances in them, and the lock under which they are moved."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from airflow.models.dagrun import DagRun
from airflow.models.pool import Pool
from airflow.models.task_state_store import TaskStateStoreModel
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, State, TaskInstanceState
from sqlalchemy import and_, exists, func, not_, select, update
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from touchstone.airflow_db.rows import (
    ASKED_FOR_AT,
    DAG_ID,
    IS_WAITING_TRAINING,
    SUSPENDED_UNTIL,
    TRAINING,
    VALIDATION,
)
from touchstone.core.pools import PRESTAGED_POOL, QUEUE_POOL
from touchstone_agent.protocol.errors import PermanentError, TransientError

PLACEMENT_KEY = "placement"
"""Key in Airflow's task state store under which a task instance finds where it goes."""
MAX_NOTE_CHARACTERS = 20_000
"""Longer than any placement; Airflow's users may write there, too."""
_PLACED_STATES = (
    TaskInstanceState.SCHEDULED,
    TaskInstanceState.QUEUED,
    TaskInstanceState.RUNNING,
    TaskInstanceState.DEFERRED,
    TaskInstanceState.UP_FOR_RETRY,
    TaskInstanceState.UP_FOR_RESCHEDULE,
)


class PoolsBusy(TransientError):
    """A scheduler, or another dispatcher, holds the pools right now; ask again in a moment."""


@dataclass(frozen=True, kw_only=True)
class PoolFacts:
    """
    A pool, and what it holds.

    :param slots: What admins have set; -1 for unlimited.
    :param open: Slots nobody holds; negative if the pool was made smaller than what it holds.
    :param scheduled: Task instances that will take a slot next.
    """

    slots: int
    open: float
    running: int
    queued: int
    deferred: int
    scheduled: int
    include_deferred: bool


@dataclass(frozen=True, kw_only=True)
class Instance:
    """
    A task instance that waits for a server, or has one.

    :param id: Airflow's id of it.
    :param state: Airflow's state.
    :param is_resuming: Whether it goes on with something, rather than start.
    :param max_tries: Airflow's limit of tries, which a clear raises and a retry does not.
    :param ready_at: When it could have started, as far as Airflow is concerned.
    :param placement: What was decided last, for whichever try; as it is read, what anybody may
        have written there.
    :param is_suspended: Whether its run costs the scheduler nothing while it waits.
    """

    id: object
    dag_run_pk: int
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    state: str
    pool: str
    is_resuming: bool
    ready_at: datetime | None
    placement: Mapping[str, object] | None
    is_suspended: bool = False
    max_tries: int = 0

    @cached_property
    def key(self) -> tuple[str, str, int]:
        """Identify the instance across its tries: run id, task id, map index."""
        return self.run_id, self.task_id, self.map_index

    @property
    def is_placed(self) -> bool:
        """Tell whether the placement is of this try."""
        return self.placement is not None and self.placement.get("try") == self.try_number

    @property
    def is_waiting(self) -> bool:
        """Tell whether it is pending or prestaged, or about to become so."""
        is_scheduled = self.state == TaskInstanceState.SCHEDULED and not self.is_resuming
        return (is_scheduled and self.pool in {QUEUE_POOL, PRESTAGED_POOL}) or self.is_prestaged

    @property
    def is_prestaged(self) -> bool:
        """Tell whether it is deferred and bound to nothing, ready to be started at once."""
        return self.pool == PRESTAGED_POOL and self.state == TaskInstanceState.DEFERRED


def read_instances() -> list[Instance]:
    """Return all task instances that wait for a server, or hold or held one and go on."""
    columns = (
        TaskInstance.id,
        DagRun.id,
        TaskInstance.run_id,
        TaskInstance.task_id,
        TaskInstance.map_index,
        TaskInstance.try_number,
        TaskInstance.state,
        TaskInstance.pool,
        TaskInstance.next_method,
        TaskInstance.scheduled_dttm,
        func.substr(TaskStateStoreModel.value, 1, MAX_NOTE_CHARACTERS),
        # Compared there: to make thousands of times of Python costs as much as to read them.
        DagRun.run_after == SUSPENDED_UNTIL,
        TaskInstance.max_tries,
    )
    with create_session() as session:
        rows = session.execute(
            select(*columns)
            .join(
                DagRun,
                and_(
                    DagRun.dag_id == TaskInstance.dag_id,
                    DagRun.run_id == TaskInstance.run_id,
                ),
            )
            .outerjoin(
                TaskStateStoreModel,
                and_(
                    TaskStateStoreModel.dag_run_id == DagRun.id,
                    TaskStateStoreModel.task_id == TaskInstance.task_id,
                    TaskStateStoreModel.map_index == TaskInstance.map_index,
                    TaskStateStoreModel.key == PLACEMENT_KEY,
                ),
            )
            # Not by task, which few others share these states with: SQLite would take that for the
            # better index, and go through all trainings there ever were.
            .where(TaskInstance.dag_id == DAG_ID, TaskInstance.state.in_(_PLACED_STATES))
        ).all()
    return [
        Instance(
            id=row[0],
            dag_run_pk=row[1],
            run_id=row[2],
            task_id=row[3],
            map_index=row[4],
            try_number=row[5],
            state=str(getattr(row[6], "value", row[6])),
            pool=row[7],
            # A deferred instance has the method that it will resume with, too.
            is_resuming=row[8] is not None and row[6] != TaskInstanceState.DEFERRED,
            ready_at=row[9],
            placement=_read_note(row[10]),
            is_suspended=bool(row[11]),
            max_tries=row[12],
        )
        for row in rows
        if row[3] in {TRAINING, VALIDATION}
    ]


def _read_note(text: str | None) -> dict[str, object] | None:
    try:
        note = json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None
    return note if isinstance(note, dict) else None


def read_pools() -> dict[str, PoolFacts]:
    """Return all pools of this Airflow by name."""
    with create_session() as session:
        return _read_pools(session, lock=False)


def _read_pools(session: Session, *, lock: bool) -> dict[str, PoolFacts]:
    stats = Pool.slots_stats(lock_rows=lock, session=session)
    kept = session.execute(select(Pool.pool, Pool.slots, Pool.include_deferred)).all()
    return {
        name: PoolFacts(
            slots=slots,
            open=stats[name]["open"],
            running=stats[name]["running"],
            queued=stats[name]["queued"],
            deferred=stats[name]["deferred"],
            scheduled=stats[name]["scheduled"],
            include_deferred=include_deferred,
        )
        for name, slots, include_deferred in kept
        if name in stats
    }


class LockedPools:
    """
    The pools while no scheduler and no other dispatcher can fill them.

    Every change names what it expects to find, so that an instance that somebody marked,
    cleared or moved meanwhile is left alone.

    :param session: The transaction that holds the lock.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.pools = _read_pools(session, lock=True)

    def move(self, instance: Instance, pool: str) -> bool:
        """Put an instance into another pool; return whether it still was as it was read."""
        changed = self._session.execute(
            update(TaskInstance)
            .where(
                TaskInstance.id == instance.id,
                TaskInstance.state == instance.state,
                TaskInstance.pool == instance.pool,
                TaskInstance.try_number == instance.try_number,
            )
            .values(pool=pool)
            .execution_options(synchronize_session=False)
        )
        return bool(changed.rowcount)  # type: ignore[attr-defined]

    def place(self, instance: Instance, pool: str, placement: Mapping[str, object]) -> bool:
        """
        Put an instance into a pool, with what its operator has to know.

        :param placement: Stored as it is.
        :return: Whether it still was as it was read; nothing is stored otherwise.
        """
        if not self.move(instance, pool):
            return False
        if instance.pool == QUEUE_POOL:
            # Whether or not it was suspended when it was read: another dispatcher may have done it.
            self.resume([instance.dag_run_pk])
        value = json.dumps(dict(placement))
        now = datetime.now(UTC)
        changed = self._session.execute(
            update(TaskStateStoreModel)
            .where(
                TaskStateStoreModel.dag_run_id == instance.dag_run_pk,
                TaskStateStoreModel.task_id == instance.task_id,
                TaskStateStoreModel.map_index == instance.map_index,
                TaskStateStoreModel.key == PLACEMENT_KEY,
            )
            .values(value=value, updated_at=now)
            .execution_options(synchronize_session=False)
        )
        if not changed.rowcount:  # type: ignore[attr-defined]
            self._session.add(
                TaskStateStoreModel(
                    dag_run_id=instance.dag_run_pk,
                    dag_id=DAG_ID,
                    run_id=instance.run_id,
                    task_id=instance.task_id,
                    map_index=instance.map_index,
                    key=PLACEMENT_KEY,
                    value=value,
                    updated_at=now,
                )
            )
        return True

    def suspend(self, run_pks: Sequence[int]) -> int:
        """
        Let runs wait as Airflow's queued runs do, which cost its scheduler nothing.

        A run that waits costs the scheduler some thirty milliseconds in every pass, for
        everybody. Only runs are suspended whose trainings all wait and have never begun, so that
        nothing in them is for the scheduler to do; they are started again with the first
        placement of one of them.

        :return: How many were suspended.
        """
        of_run = (TaskInstance.dag_id == DagRun.dag_id, TaskInstance.run_id == DagRun.run_id)
        has_begun = exists().where(
            *of_run, TaskInstance.task_id == TRAINING, not_(IS_WAITING_TRAINING)
        )
        has_others = exists().where(
            *of_run,
            TaskInstance.task_id != TRAINING,
            TaskInstance.state.in_(list(State.unfinished - {None})),
        )
        idle = self._session.scalars(
            select(DagRun.id)
            .where(
                DagRun.id.in_(run_pks),
                DagRun.state == DagRunState.RUNNING,
                ~has_begun,
                ~has_others,
            )
            # Those that a scheduler looks at right now can wait; the pools cannot.
            .with_for_update(skip_locked=True, key_share=True)
        ).all()
        if idle:
            self._session.execute(
                update(DagRun)
                .where(DagRun.id.in_(idle))
                .values(state=DagRunState.QUEUED, run_after=SUSPENDED_UNTIL)
                .execution_options(synchronize_session=False)
            )
        return len(idle)

    def resume(self, run_pks: Sequence[int]) -> None:
        """Let suspended runs go on at once."""
        self._session.execute(
            update(DagRun)
            .where(
                DagRun.id.in_(run_pks),
                DagRun.state == DagRunState.QUEUED,
                DagRun.run_after == SUSPENDED_UNTIL,
            )
            .values(state=DagRunState.RUNNING, run_after=ASKED_FOR_AT)
            .execution_options(synchronize_session=False)
        )


@contextmanager
def lock_pools() -> Iterator[LockedPools]:
    """
    Hold the lock that the scheduler's own critical section takes, until the block ends.

    :raises PoolsBusy: If somebody else holds it; nothing was changed.
    """
    try:
        # Not the thread's own session: whatever else opens and closes that one would let go.
        with create_session(scoped=False) as session:
            if session.get_bind().dialect.name == "sqlite":
                # SQLite locks no rows: a writing transaction from the start keeps others out.
                session.execute(
                    update(Pool)
                    .where(Pool.id == -1)
                    .values(slots=Pool.slots)
                    .execution_options(synchronize_session=False)
                )
            yield LockedPools(session)
    except OperationalError as error:
        raise PoolsBusy(f"Airflow's pools are locked: {error.orig}") from error
    except IntegrityError as error:
        raise PoolsBusy(f"two placements at once: {error.orig}") from error


def create_pool(name: str, slots: int, description: str) -> bool:
    """
    Create a pool in which what is deferred holds its slot; return whether it was missing.

    :param slots: -1 for unlimited.
    """
    try:
        with create_session() as session:
            if session.scalar(select(Pool.id).where(Pool.pool == name)) is not None:
                return False
            session.add(
                Pool(pool=name, slots=slots, description=description, include_deferred=True)
            )
    except IntegrityError:
        return False  # another dispatcher was faster
    return True


def remove_pool(name: str) -> bool:
    """Remove a pool that nothing is in; return whether it was there."""
    with create_session() as session:
        pool = session.scalar(select(Pool).where(Pool.pool == name).with_for_update())
        if pool is None:
            return False
        session.delete(pool)
        return True


def set_slots(name: str, slots: int) -> int:
    """
    Change a pool's slots, and see to it that what is deferred counts.

    :return: The slots it had.
    :raises PermanentError: If there is no such pool.
    """
    with create_session() as session:
        pool = session.scalar(select(Pool).where(Pool.pool == name).with_for_update())
        if pool is None:
            raise PermanentError(f"there is no pool {name!r}")
        old = int(pool.slots)
        pool.slots, pool.include_deferred = slots, True
        return old


def exchange_slots(name: str, slots: int, *, expected: int) -> bool:
    """
    Change a pool's slots if it has as many as expected, and see to it that what is deferred counts.

    :return: Whether it had; nothing is changed otherwise.
    """
    with create_session() as session:
        changed = session.execute(
            update(Pool)
            .where(Pool.pool == name, Pool.slots == expected)
            .values(slots=slots, include_deferred=True)
            .execution_options(synchronize_session=False)
        )
        return bool(changed.rowcount)  # type: ignore[attr-defined]
