"""What is known of one run of the DAG, and why it failed before there was a record of it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final

from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.utils.log.log_reader import TaskLogReader
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from pydantic import BaseModel, BeforeValidator, ConfigDict
from sqlalchemy import select
from sqlalchemy.orm import joinedload

from touchstone.airflow_db.rows import DAG_ID
from touchstone.core.authority import UNKNOWN_USER

log = logging.getLogger(__name__)

MAX_LINES: Final = 2000
"""So many of a log's last lines are looked through."""
MAX_REASON: Final = 500
"""Longest reason, in characters."""

_NEVER: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """
    A run, as Airflow has it.

    :param run_id: Its id.
    :param user: Who triggered it.
    :param state: Airflow's word for how it is.
    :param conf: Its conf: anything at all.
    :param logical_date: The date it stands for, which it waits for; ``None`` for none.
    :param run_after: When it may begin.
    :param is_paused: Whether the DAG is, so that no run of it begins.
    """

    run_id: str
    user: str
    state: str
    conf: object
    logical_date: datetime | None
    run_after: datetime | None
    is_paused: bool


def find_run_facts(run_id: str, dag_id: str = DAG_ID) -> RunFacts | None:
    """Return a run of a DAG of ours; ``None`` if there is none of that id."""
    with create_session() as session:
        run = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
        if run is None:
            return None
        is_paused = session.scalar(select(DagModel.is_paused).where(DagModel.dag_id == dag_id))
        return RunFacts(
            run_id=run.run_id,
            user=run.triggering_user_name or UNKNOWN_USER,
            state=str(getattr(run.state, "value", run.state)),
            conf=run.conf,
            logical_date=run.logical_date,
            run_after=run.run_after,
            is_paused=bool(is_paused),
        )


def find_failure(run_id: str) -> str | None:
    """
    Return the last error line of the first task of a run that failed.

    A run that is refused before there is a record of it says why in Airflow's log only.
    """
    with create_session() as session:
        failed = session.scalars(
            select(TaskInstance)
            .where(
                TaskInstance.dag_id == DAG_ID,
                TaskInstance.run_id == run_id,
                TaskInstance.state == TaskInstanceState.FAILED,
            )
            .options(
                joinedload(TaskInstance.dag_run),
                joinedload(TaskInstance.dag_model),
                joinedload(TaskInstance.trigger).joinedload(Trigger.triggerer_job),
            )
        ).all()
        if not failed:
            return None
        # One that others waited for starts before they do, and may have no start at all.
        first = min(failed, key=lambda task: (task.start_date or _NEVER, task.map_index))
        try:
            lines, _ = TaskLogReader().read_log_chunks(
                first, first.try_number, {"end_of_log": False}
            )
            newest = deque(lines, maxlen=MAX_LINES)
        except Exception:
            # Where logs are kept may be out of reach, in whatever way its library has.
            log.warning("the log of %s of run %s cannot be read", first.task_id, run_id)
            return None
    return find_error_line(line if isinstance(line, str) else line.model_dump() for line in newest)


class _Error(BaseModel):
    model_config = ConfigDict(extra="ignore")

    exc_value: str | None = None


class _Line(BaseModel):
    """A line of a task's log, of whatever wrote it."""

    model_config = ConfigDict(extra="ignore")

    event: str = ""
    level: str | None = None
    error_detail: Annotated[tuple[_Error, ...], BeforeValidator(lambda value: value or ())] = ()


def find_error_line(lines: Iterable[Mapping[str, object] | str]) -> str | None:
    """Return what the last error of a task's log says: the exception's own words if it has any."""
    for raw in reversed(list(lines)):
        try:
            line = _Line.model_validate({"event": raw} if isinstance(raw, str) else raw)
        except ValueError:
            continue
        for error in reversed(line.error_detail):
            if value := (error.exc_value or "").strip():
                return value.splitlines()[0][:MAX_REASON]
        if line.level in {"error", "critical"} and line.event.strip():
            return line.event.strip().splitlines()[0][:MAX_REASON]
    return None
