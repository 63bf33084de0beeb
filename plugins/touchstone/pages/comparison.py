"""The page that shows some submissions beside each other."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from touchstone.client.comparison_tables import HEADINGS, describe_missing
from touchstone.core.answers import ComparedSubmissions
from touchstone.core.comparing import LEAST, MOST, find_interval
from touchstone.core.schedule import MAX_ID
from touchstone.pages.rendering import Frame, render
from touchstone.pages.whiskers import build_whiskers
from touchstone.ui.dependencies import CallerDep, ClockDep
from touchstone.ui.routes import comparison as api
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
    submission: Annotated[
        list[Annotated[str, Query(max_length=MAX_ID)]] | None, Query(max_length=MAX_CHOSEN)
    ] = None,
) -> Response:
    """Show submissions beside each other; without enough of them, how to choose some."""
    chosen = list(dict.fromkeys(each.strip() for each in submission or () if each.strip()))
    is_fit = LEAST <= len(chosen) <= MOST
    found = (
        comparer.compare(chosen) if is_fit else ComparedSubmissions(intervals=(), submissions=())
    )
    rows = [(each, row) for each in found.submissions for row in each.verdicts]
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
            "has_charts": any(line.charts for each in found.submissions for line in each.intervals),
        },
    )


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
