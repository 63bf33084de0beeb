"""Runs of the DAG: how they are, and whether they may begin and go on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from airflow.api.common.mark_tasks import set_dag_run_state_to_failed
from airflow.models.dagbag import DBDagBag
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, State, TaskInstanceState
from sqlalchemy import ColumnElement, and_, exists, func, not_, or_, select, update

from touchstone.airflow_db.rows import (
    ASKED_FOR_AT,
    DAG_ID,
    EVALUATE,
    IS_WAITING_TRAINING,
    PLAN,
    SUSPENDED_UNTIL,
    TRAINING,
)
from touchstone.core.authority import CONF_SUBMISSION, UNKNOWN_USER
from touchstone.core.throttling import THROTTLED_UNTIL, EarlyRun

ENDED_RUN_STATES = frozenset({DagRunState.SUCCESS.value, DagRunState.FAILED.value})
_MAY_BEGIN = and_(
    DagRun.dag_id == DAG_ID,
    DagRun.state == DagRunState.QUEUED,
    DagRun.last_scheduling_decision.is_(None),
    # Neither a suspended run, nor one that a user wants to begin later.
    DagRun.run_after <= func.now(),
)


def find_run_states(run_ids: Iterable[str]) -> dict[str, str]:
    """Return the state of each of the DAG's runs that exist, by run id."""
    return {
        run_id: str(getattr(state, "value", state))
        for run_id, state in _read_column(DagRun.state, run_ids)
    }


def read_named_submissions(run_ids: Iterable[str]) -> dict[str, object]:
    """Return what runs name in their confs as their submission, by run id: anything at all."""
    return {
        run_id: conf[CONF_SUBMISSION]
        for run_id, conf in _read_column(DagRun.conf, run_ids)
        if isinstance(conf, dict) and CONF_SUBMISSION in conf
    }


def read_users(run_ids: Iterable[str]) -> dict[str, str]:
    """Return who triggered each of the DAG's runs that exist, by run id."""
    users = _read_column(DagRun.triggering_user_name, run_ids)
    return {run_id: user or UNKNOWN_USER for run_id, user in users}


def _read_column(column: Any, run_ids: Iterable[str]) -> list[tuple[str, Any]]:
    """Return what the DAG's runs have in a column, with their ids; those that exist."""
    wanted = list(dict.fromkeys(run_ids))
    if not wanted:
        return []
    with create_session() as session:
        rows = session.execute(
            select(DagRun.run_id, column).where(DagRun.dag_id == DAG_ID, DagRun.run_id.in_(wanted))
        ).all()
    return [(run_id, value) for run_id, value in rows]


def find_ended_instances(run_ids: Iterable[str]) -> set[tuple[str, str, int]]:
    """
    Return the task instances of runs that have ended: run id, task id, map index.

    Cleared ones wait again and are not among them.
    """
    wanted = list(dict.fromkeys(run_ids))
    if not wanted:
        return set()
    with create_session() as session:
        # Not by state: SQLite may take that for the better index, and almost all have ended.
        rows = session.execute(
            select(
                TaskInstance.run_id,
                TaskInstance.task_id,
                TaskInstance.map_index,
                TaskInstance.state,
            ).where(TaskInstance.dag_id == DAG_ID, TaskInstance.run_id.in_(wanted))
        ).all()
    return {
        (run_id, task_id, map_index)
        for run_id, task_id, map_index, state in rows
        if state in State.finished
    }


def find_submitter(run_id: str) -> str | None:
    """Return who triggered a run that has not ended; ``None`` if there is no such run."""
    with create_session() as session:
        row = session.execute(
            select(DagRun.triggering_user_name).where(
                DagRun.dag_id == DAG_ID,
                DagRun.run_id == run_id,
                DagRun.state.not_in(ENDED_RUN_STATES),
            )
        ).first()
    return None if row is None else row[0] or UNKNOWN_USER


def fail_runs(run_ids: Iterable[str]) -> list[str]:
    """
    End runs the way the UI's "mark as failed" does; runs that have ended are left alone.

    Running and deferred task instances become failed, which makes the triggerer call their
    triggers' ``on_kill``; those that have not started never will: skipped, but for the last one.
    A scheduler that had the run in hand decides by that one alone how it ends, and a skipped one
    is as good as a success to it.

    :return: The runs that were ended.
    """
    ended = []
    with create_session() as session:
        bag = DBDagBag()
        for run_id in dict.fromkeys(run_ids):
            run = session.scalar(
                select(DagRun).where(DagRun.dag_id == DAG_ID, DagRun.run_id == run_id)
            )
            if run is None or str(run.state) in ENDED_RUN_STATES:
                continue
            dag = bag.get_dag_for_run(run, session=session)
            if dag is None:
                continue
            for last in session.scalars(
                select(TaskInstance).where(
                    TaskInstance.dag_id == DAG_ID,
                    TaskInstance.run_id == run_id,
                    TaskInstance.task_id == EVALUATE,
                    TaskInstance.state.is_(None) | TaskInstance.state.in_(State.unfinished),
                )
            ):
                last.set_state(TaskInstanceState.FAILED, session=session)
            set_dag_run_state_to_failed(dag=dag, run_id=run_id, commit=True, session=session)
            ended.append(run_id)
    return ended


def release_suspended() -> int:
    """
    Give Airflow back runs that a user cleared or marked while they were suspended or throttled.

    :return: How many.
    """
    trainings = exists().where(
        TaskInstance.dag_id == DagRun.dag_id,
        TaskInstance.run_id == DagRun.run_id,
        TaskInstance.task_id == TRAINING,
    )
    is_touched = DagRun.state != DagRunState.QUEUED
    has_none_waiting = ~trainings.where(IS_WAITING_TRAINING)
    has_begun = trainings.where(not_(IS_WAITING_TRAINING))
    condition = or_(
        and_(DagRun.run_after == THROTTLED_UNTIL, is_touched),
        and_(DagRun.run_after == SUSPENDED_UNTIL, or_(is_touched, has_none_waiting, has_begun)),
    )
    with create_session() as session:
        # By the time alone, which only those have: of the DAG there are all runs there ever were.
        rows = session.execute(
            select(DagRun.id, DagRun.dag_id).where(
                DagRun.run_after.in_([THROTTLED_UNTIL, SUSPENDED_UNTIL]), condition
            )
        ).all()
    found = [pk for pk, dag_id in rows if dag_id == DAG_ID]
    return _change_runs(DagRun.id.in_(found), condition, run_after=ASKED_FOR_AT) if found else 0


def read_early_runs() -> list[EarlyRun]:
    """Return the runs that have not got as far as their trainings, begun or not."""
    has_plan = exists().where(
        TaskInstance.dag_id == DagRun.dag_id,
        TaskInstance.run_id == DagRun.run_id,
        TaskInstance.task_id == PLAN,
        TaskInstance.state.in_(State.finished),
    )
    has_begun = DagRun.state == DagRunState.RUNNING
    is_new = or_(_MAY_BEGIN, DagRun.run_after == THROTTLED_UNTIL)
    with create_session() as session:
        rows = session.execute(
            select(DagRun.id, DagRun.triggering_user_name, has_begun, DagRun.run_after).where(
                DagRun.dag_id == DAG_ID,
                # Implied by the rest but for what was held and then marked, which is the
                # reconciler's; it keeps all runs that have ended from being looked at.
                DagRun.state.in_([DagRunState.QUEUED, DagRunState.RUNNING]),
                or_(is_new, and_(has_begun, ~has_plan)),
            )
        ).all()
    # Sorted here: SQLite would go through all runs of the DAG to have them in order.
    return [
        EarlyRun(
            pk=pk,
            submitter=user or UNKNOWN_USER,
            has_begun=bool(begun),
            is_throttled=after == THROTTLED_UNTIL,
        )
        for pk, user, begun, after in sorted(rows, key=lambda row: int(row[0]))
    ]


def throttle_runs(run_pks: Sequence[int]) -> int:
    """Keep runs that have not begun from beginning; return how many."""
    return _change_runs(DagRun.id.in_(run_pks), _MAY_BEGIN, run_after=THROTTLED_UNTIL)


def release_runs(run_pks: Sequence[int]) -> int:
    """Let runs begin that were kept from it; return how many."""
    return _change_runs(
        DagRun.id.in_(run_pks), DagRun.run_after == THROTTLED_UNTIL, run_after=ASKED_FOR_AT
    )


def _change_runs(*conditions: ColumnElement[bool], **values: object) -> int:
    with create_session() as session:
        changed = session.execute(
            update(DagRun)
            .where(*conditions)
            .values(**values)
            .execution_options(synchronize_session=False)
        )
        return int(changed.rowcount)  # type: ignore[attr-defined]
