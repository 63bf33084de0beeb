"""The tab of a DAG run and of a task instance in Airflow: which submission that works on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from touchstone.core.authority import find_named_submission
from touchstone.core.roles import DAG_ID
from touchstone.pages.rendering import Frame, lead, render
from touchstone.stores.tables import RecordNotFound
from touchstone.ui.dependencies import CallerDep, ClockDep, RecordsDep
from touchstone.ui.queries import get_visible_submission

router = APIRouter()

MAX_RUN_ID = 250


FindNamed = Callable[[str], object]
"""Returns what a run's conf names as its submission: anything at all."""


def get_find_named() -> FindNamed:
    """Return what looks into Airflow's runs."""

    def find(run_id: str) -> object:
        # Brings Airflow's models with it.
        from touchstone.airflow_db.runs import read_named_submissions

        return read_named_submissions([run_id]).get(run_id)

    return find


@router.get("/run")
def show_run(
    request: Request,
    caller: CallerDep,
    records: RecordsDep,
    clock: ClockDep,
    find_named: Annotated[FindNamed, Depends(get_find_named)],
    dag: Annotated[str, Query(max_length=MAX_RUN_ID)] = "",
    run: Annotated[str, Query(max_length=MAX_RUN_ID)] = "",
) -> Response:
    """Lead to the submission that a run works on, or say that it works on none."""
    reason = f"The DAG {dag} is none of Touchstone's."
    if dag == DAG_ID:
        submission_id = find_named_submission(run, find_named(run)) or ""
        try:
            found = get_visible_submission(records, caller, submission_id)
        except RecordNotFound:
            found = None
        if found is not None and run in found.run_ids:
            return lead(request, f"/submissions/{submission_id}")
        reason = (
            "The run has registered no submission yet, was refused before it did, "
            "or is another user's. Its task register says which."
        )
    frame = Frame(caller=caller, now=clock(), area="")
    return render(request, "no_submission.html", frame, {"reason": reason})
