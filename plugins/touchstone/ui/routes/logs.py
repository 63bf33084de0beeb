"""Consoles of attempts, page by page."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from touchstone.core.answers.tasks import LogPage
from touchstone.ui.console import read_page
from touchstone.ui.dependencies import (
    CallerDep,
    ClockDep,
    ObjectsDep,
    RecordsDep,
    SettingsDep,
)
from touchstone.ui.queries import get_visible_submission

router = APIRouter()


@router.get("/submissions/{submission_id}/tasks/{task_id}/log")
def get_log(
    caller: CallerDep,
    records: RecordsDep,
    objects: ObjectsDep,
    settings: SettingsDep,
    clock: ClockDep,
    submission_id: str,
    task_id: str,
    offset: Annotated[int, Query(ge=0)] = 0,
    attempt: Annotated[str | None, Query(pattern=r"^\d{1,9}-\d{1,9}$")] = None,
) -> LogPage:
    """Return a task's console from an offset on; poll with ``next_offset`` to follow it."""
    get_visible_submission(records, caller, submission_id)
    task = records.get_task(submission_id, task_id)
    return read_page(
        objects, settings.logs_bucket, task, attempt=attempt, offset=offset, now=clock()
    )
