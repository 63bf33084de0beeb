"""Runs of the DAG, for those who started them or whose submission they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends
from pydantic import JsonValue, TypeAdapter, ValidationError

from touchstone.core.answers.acts import ShownRun
from touchstone.core.names import find_submission_of_run
from touchstone.stores.records import RecordStore
from touchstone.stores.tables import RecordNotFound
from touchstone.ui.dependencies import Caller, CallerDep, RecordsDep
from touchstone.ui.queries import may_see

if TYPE_CHECKING:
    from touchstone.airflow_db.run_facts import RunFacts

router = APIRouter(prefix="/runs")

_CONF: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)


def _find_run(run_id: str) -> RunFacts | None:
    from touchstone.airflow_db.run_facts import find_run_facts

    return find_run_facts(run_id)


def _find_failure(run_id: str) -> str | None:
    from touchstone.airflow_db.run_facts import find_failure

    return find_failure(run_id)


@dataclass(frozen=True, kw_only=True)
class RunReader:
    """
    Looks at runs of the DAG.

    :param find_run: Returns a run by its id.
    :param find_failure: Returns why a run failed, by the log of its first task that did.
    """

    find_run: Callable[[str], RunFacts | None] = _find_run
    find_failure: Callable[[str], str | None] = _find_failure


def get_run_reader() -> RunReader:
    """Return what looks at runs."""
    return RunReader()


@router.get("/{run_id}")
def get_run(
    caller: CallerDep,
    records: RecordsDep,
    reader: Annotated[RunReader, Depends(get_run_reader)],
    run_id: str,
) -> ShownRun:
    """
    Return how a run is, and why it failed if it did.

    :raises RecordNotFound: If there is none, or the caller has no part in it.
    """
    run = reader.find_run(run_id)
    if run is None or not _may_see_run(records, caller, run_id, run):
        raise RecordNotFound(f"there is no run {run_id!r}")
    return ShownRun(
        run_id=run_id,
        state=run.state,
        conf=_read_conf(run.conf),
        logical_date=run.logical_date,
        run_after=run.run_after,
        is_paused=run.is_paused,
        failure=reader.find_failure(run_id) if run.state == "failed" else None,
    )


def _may_see_run(records: RecordStore, caller: Caller, run_id: str, run: RunFacts) -> bool:
    if caller.is_admin or run.user == caller.name:
        return True
    # An admin may have scheduled it for its submitter.
    found = records.find_submission(find_submission_of_run(run_id))
    return found is not None and run_id in found.run_ids and may_see(caller, found)


def _read_conf(conf: object) -> JsonValue:
    try:
        return _CONF.validate_python(conf)
    except ValidationError:
        return None
