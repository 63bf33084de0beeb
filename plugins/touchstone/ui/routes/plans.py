"""Plans: what would become of a schedule if it were given now."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from touchstone.core.answers.plans import SchedulePlan
from touchstone.core.conf import CONF_KEYS
from touchstone.core.documents import name_field
from touchstone.core.schedule import MAX_ID, Schedule
from touchstone.services.planning import MAX_PLANNED, Planner
from touchstone.ui.dependencies import (
    CallerDep,
    ClockDep,
    ObjectsDep,
    RecordsDep,
    SettingsDep,
    require_json,
    require_submitter,
)
from touchstone.ui.queries import get_visible_submission
from touchstone.ui.routes.events import KeeperDep
from touchstone.ui.waiting import read_outlook
from touchstone_agent.protocol.errors import ConfigurationError

router = APIRouter()


class PlanBody(BaseModel):
    """
    A schedule that is to be planned.

    :param submissions: Accepted submissions that it would be given to.
    :param schedule: The schedule's fields, as in a run's conf.
    """

    model_config = ConfigDict(extra="forbid")

    submissions: list[Annotated[str, Field(max_length=MAX_ID)]] = Field(
        min_length=1, max_length=MAX_PLANNED
    )
    schedule: dict[Annotated[str, Field(max_length=MAX_ID)], JsonValue] = Field(
        max_length=len(CONF_KEYS)
    )


async def get_planner(
    records: RecordsDep,
    objects: ObjectsDep,
    settings: SettingsDep,
    keeper: KeeperDep,
    clock: ClockDep,
) -> Planner:
    """Return what plans schedules."""
    return Planner(
        records=records,
        settings=settings,
        keeper=keeper,
        read_outlook=lambda: read_outlook(objects, settings),
        clock=clock,
    )


PlannerDep = Annotated[Planner, Depends(get_planner)]


@router.post("/plans", dependencies=[Depends(require_submitter), Depends(require_json)])
def plan_schedule(
    caller: CallerDep, records: RecordsDep, planner: PlannerDep, body: PlanBody
) -> SchedulePlan:
    """
    Say what would become of a schedule if it were given now; nothing is changed.

    :raises RecordNotFound: If a submission does not exist, or is somebody else's.
    :raises ConfigurationError: What a real scheduling would refuse, with the field's name.
    """
    for submission_id in body.submissions:
        get_visible_submission(records, caller, submission_id)
    if unknown := sorted(set(body.schedule) - set(Schedule.model_fields)):
        raise ConfigurationError(
            f"{name_field(unknown[:1])}: is no field of a schedule; known are "
            f"{', '.join(sorted(Schedule.model_fields))}"
        )
    return planner.plan(body.submissions, body.schedule, user=caller.name)
