"""What pods have cost: everybody's for admins, and one's own for users."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Query

from touchstone.core.answers.costs import CostReport
from touchstone.core.costs import CostGroup
from touchstone.core.money import build_month
from touchstone.services.costs import CostReader
from touchstone.services.pods.ledger import build_limits
from touchstone.stores.meter import Meter
from touchstone.stores.money import Budgets
from touchstone.ui.dependencies import (
    CallerDep,
    ClockDep,
    RecordsDep,
    SettingsDep,
    get_budgets,
    get_meter,
)

router = APIRouter()

MONTH_PATTERN = r"^[0-9]{4}-(0[1-9]|1[0-2])$"


async def get_cost_reader(
    meter: Annotated[Meter, Depends(get_meter)],
    budgets: Annotated[Budgets, Depends(get_budgets)],
    records: RecordsDep,
    settings: SettingsDep,
) -> CostReader:
    """Return what makes reports of costs."""
    return CostReader(meter=meter, budgets=budgets, records=records, limits=build_limits(settings))


CostReaderDep = Annotated[CostReader, Depends(get_cost_reader)]


@router.get("/costs")
def get_costs(
    caller: CallerDep,
    reader: CostReaderDep,
    clock: ClockDep,
    month: Annotated[str | None, Query(pattern=MONTH_PATTERN)] = None,
    by: CostGroup = CostGroup.SUBMISSION,
    user: Annotated[str | None, Query(min_length=1, max_length=250)] = None,
) -> CostReport:
    """Return what the pods have cost that were launched in a month, of whom the caller may see."""
    if not caller.is_admin and user not in {None, caller.name}:
        raise HTTPException(403, "user: what others' pods cost is for admins")
    now = clock()
    whose = user if caller.is_admin else caller.name
    return reader.build_report(month or build_month(now), by, user=whose, now=now)
