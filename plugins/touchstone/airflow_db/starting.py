"""Starts runs of the DAG for a user, as Airflow's own form and API do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from airflow.api.common.trigger_dag import trigger_dag
from airflow.exceptions import DagNotFound, DagRunAlreadyExists
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType
from pydantic import JsonValue
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError, OperationalError

from touchstone.airflow_db.rows import DAG_ID
from touchstone.core.authority import UNKNOWN_USER
from touchstone_agent.protocol.errors import ConfigurationError, TransientError


@dataclass(frozen=True, kw_only=True)
class StartedRun:
    """
    A run of the DAG, as it was started.

    :param user: Who triggered it.
    :param conf: Its conf: anything at all.
    """

    user: str
    conf: object


def find_started_run(run_id: str) -> StartedRun | None:
    """Return a run of the DAG, whether or not it has ended; ``None`` if there is none."""
    with create_session() as session:
        row = session.execute(
            select(DagRun.triggering_user_name, DagRun.conf).where(
                DagRun.dag_id == DAG_ID, DagRun.run_id == run_id
            )
        ).first()
    return None if row is None else StartedRun(user=row[0] or UNKNOWN_USER, conf=row[1])


def start_run(
    run_id: str,
    conf: Mapping[str, JsonValue],
    *,
    by: str,
    is_page: bool = False,
    dag_id: str = DAG_ID,
) -> bool:
    """
    Start a run of a DAG of ours.

    :param run_id: Its id; one id is one run, however often it is asked for.
    :param conf: Its conf, flat.
    :param by: The user who is noted as the one who triggered it.
    :param is_page: Whether they did it on a page; Airflow shows that beside the user.
    :param dag_id: Which DAG; the one of submissions unless told otherwise.
    :return: Whether it was started; ``False`` if there is a run of that id.
    :raises ConfigurationError: If Airflow refuses the conf.
    :raises TransientError: If Airflow has not read the DAG yet, or could not.
    """
    with create_session() as session:
        dag = session.scalar(select(DagModel).where(DagModel.dag_id == dag_id))
        is_there = dag is not None and not dag.is_stale and not dag.has_import_errors
    if not is_there:
        raise TransientError(f"Airflow has not read the DAG {dag_id!r}: try again in a moment")
    try:
        trigger_dag(
            dag_id,
            triggered_by=DagRunTriggeredByType.UI if is_page else DagRunTriggeredByType.REST_API,
            triggering_user_name=by,
            run_id=run_id,
            conf=dict(conf),
        )
    except (DagRunAlreadyExists, IntegrityError):
        # The second of two at once finds out when it writes.
        return False
    except OperationalError as error:
        raise TransientError("Airflow's database does not answer: try again") from error
    except DagNotFound as error:
        raise TransientError(f"Airflow has not read the DAG {dag_id!r}") from error
    except ValueError as error:
        raise ConfigurationError(f"Airflow refuses the run: {_shorten(error)}") from error
    return True


def _shorten(error: Exception) -> str:
    """Return the first line of an error: below it Airflow shows a whole JSON schema."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
