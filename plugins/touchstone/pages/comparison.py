"""The page that shows some submissions beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import JsonValue

from touchstone.client.comparison_tables import HEADINGS, describe_missing
from touchstone.core.answers.comparison import ComparedSubmission, ComparedSubmissions
from touchstone.core.charts import JUDGE
from touchstone.core.comparing import LEAST, MOST, find_interval
from touchstone.core.figures import read_figures
from touchstone.core.names import build_task_id
from touchstone.core.schedule import MAX_ID, MAX_INTERVAL
from touchstone.pages.plots import Plot
from touchstone.pages.rendering import Frame, render
from touchstone.pages.training_charts import build_plots
from touchstone.pages.whiskers import build_whiskers
from touchstone.stores.parts import Parts
from touchstone.stores.records import RecordStore
from touchstone.stores.tables import RecordNotFound
from touchstone.ui.dependencies import Caller, CallerDep, ClockDep, PartsDep, RecordsDep
from touchstone.ui.routes import comparison as api
from touchstone.ui.routes import submissions as submissions_api
from touchstone.ui.routes.comparison import Asked, ComparerDep

router = APIRouter()

MAX_CHOSEN = 50
"""As many as a page of the list has; more than may be compared are answered in words."""


@router.get("/compare")
def show_comparison(
    request: Request,
    caller: CallerDep,
    comparer: ComparerDep,
    clock: ClockDep,
    records: RecordsDep,
    parts: PartsDep,
    submission: Annotated[
        list[Annotated[str, Query(max_length=MAX_ID)]] | None, Query(max_length=MAX_CHOSEN)
    ] = None,
    interval: Annotated[int | None, Query(ge=1, le=MAX_INTERVAL)] = None,
) -> Response:
    """
    Show submissions beside each other; without enough of them, how to choose some.

    :param interval: Whose charts are shown; the first that has some without it.
    """
    chosen = list(dict.fromkeys(each.strip() for each in submission or () if each.strip()))
    is_fit = LEAST <= len(chosen) <= MOST
    found = (
        comparer.compare(chosen) if is_fit else ComparedSubmissions(intervals=(), submissions=())
    )
    rows = [(each, row) for each in found.submissions for row in each.verdicts]
    charted = _list_charted(found)
    shown = interval if interval in charted else next(iter(charted), None)
    plots: list[Plot] = []
    if shown is not None:
        plots = build_plots(
            [
                (each.submission_id, read_figures(document))
                for each in found.submissions
                if (document := _find_charts(each, shown, caller, records, parts)) is not None
            ]
        )
    return render(
        request,
        "compare.html",
        Frame(caller=caller, now=clock(), area="submissions"),
        {
            "chosen": chosen,
            "is_fit": is_fit,
            "least": LEAST,
            "most": MOST,
            "found": found,
            "rows": rows,
            "whiskers": build_whiskers([(row.low, row.difference, row.high) for _, row in rows]),
            "headings": HEADINGS,
            "find": find_interval,
            "missing": [describe_missing(each) for each in found.missing],
            "charted": charted,
            "has_files": any(line.charts for each in found.submissions for line in each.intervals),
            "interval": shown,
            "plots": plots,
        },
    )


def _list_charted(found: ComparedSubmissions) -> list[int]:
    """Return the intervals of which somebody's charts are the judge's."""
    return sorted(
        {
            line.interval
            for each in found.submissions
            for line in each.intervals
            if any(chart.by == JUDGE for chart in line.charts)
        }
    )


def _find_charts(
    compared: ComparedSubmission, interval: int, caller: Caller, records: RecordStore, parts: Parts
) -> Mapping[str, JsonValue] | None:
    """Return what the charts of a submission's interval show; ``None`` if it has none."""
    if not find_interval(compared, interval).charts:
        return None
    task_id = build_task_id(interval)
    try:
        found = submissions_api.get_charts(caller, records, parts, compared.submission_id, task_id)
    except RecordNotFound:
        return None
    return found if found["figures"] else None


@router.get("/compare.csv")
def download_csv(comparer: ComparerDep, submission: Asked) -> Response:
    """Return the comparison as CSV, for the browser to keep."""
    return api.compare_as_csv(comparer, submission)


@router.get("/compare.json")
def download_json(comparer: ComparerDep, submission: Asked) -> Response:
    """Return the comparison as the API has it, for the browser to keep."""
    return JSONResponse(
        api.compare(comparer, submission).model_dump(mode="json"),
        headers={"Content-Disposition": 'attachment; filename="comparison.json"'},
    )
