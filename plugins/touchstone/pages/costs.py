"""The page of what pods have cost."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from touchstone.client.cost_tables import HEADINGS, ONLY_PODS
from touchstone.core.costs import MONTHS, CostGroup
from touchstone.core.money import list_months
from touchstone.pages.rendering import Frame, render
from touchstone.ui.dependencies import CallerDep, ClockDep
from touchstone.ui.routes import costs as api
from touchstone.ui.routes.costs import CostReaderDep

router = APIRouter()


@router.get("/costs")
def show_costs(
    request: Request,
    caller: CallerDep,
    reader: CostReaderDep,
    clock: ClockDep,
    month: Annotated[str, Query(max_length=20)] = "",
    by: Annotated[str, Query(max_length=20)] = "",
    user: Annotated[str, Query(max_length=250)] = "",
) -> HTMLResponse:
    """Show what the pods have cost that were launched in a month."""
    chosen = CostGroup(by) if by in set(CostGroup) else CostGroup.SUBMISSION
    asked = month if re.fullmatch(api.MONTH_PATTERN, month) else None
    # A form sends its empty fields, too.
    report = api.get_costs(caller, reader, clock, month=asked, by=chosen, user=user.strip() or None)
    now = clock()
    months = list_months(now, MONTHS)
    frame = Frame(caller=caller, now=now, area="costs")
    return render(
        request,
        "costs.html",
        frame,
        {
            "report": report,
            "heading": HEADINGS[chosen],
            "groups": tuple(CostGroup),
            "choices": months if report.month in months else [report.month, *months],
            "user": user.strip() if caller.is_admin else "",
            "only_pods": ONLY_PODS,
        },
    )
