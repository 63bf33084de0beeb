"""Files that a training has left, each by an address that is good for an hour."""

from __future__ import annotations

from fastapi import APIRouter

from touchstone.core.answers.tasks import TaskFile, TaskFiles
from touchstone.core.charts import is_open_file
from touchstone.core.names import build_output_key
from touchstone.core.tasks import find_held_data
from touchstone.stores.parts import find_files
from touchstone.ui.dependencies import CallerDep, ObjectsDep, PartsDep, RecordsDep, SettingsDep
from touchstone.ui.queries import get_visible_submission

router = APIRouter()

STAY = "its files stay at the server that holds its data"
NOT_YET = "it has published nothing yet"


@router.get("/submissions/{submission_id}/tasks/{task_id}/files")
def list_files(
    caller: CallerDep,
    records: RecordsDep,
    objects: ObjectsDep,
    parts: PartsDep,
    settings: SettingsDep,
    submission_id: str,
    task_id: str,
) -> TaskFiles:
    """
    Return the files of a training that has been judged, each with where it can be read.

    The addresses need no login, and are secrets for as long as they are good. What an event holds
    back until it closes is not among them.
    """
    get_visible_submission(records, caller, submission_id)
    task = records.get_task(submission_id, task_id)
    published = task.newest.published
    if find_held_data(task.spec) is not None:
        return TaskFiles(submission_id=submission_id, task_id=task_id, note=STAY)
    if published is None:
        return TaskFiles(submission_id=submission_id, task_id=task_id, note=NOT_YET)
    listed = []
    for file in find_files(task.newest, parts):
        if published.held_back and not is_open_file(file.path):
            continue
        key = build_output_key(task.ref, file.path)
        grant = objects.grant_get(settings.content_bucket, key)
        listed.append(
            TaskFile(
                path=file.path,
                size=file.size,
                sha256=file.sha256,
                url=grant.url,
                expires_at=grant.expires_at,
            )
        )
    return TaskFiles(
        submission_id=submission_id,
        task_id=task_id,
        files=tuple(sorted(listed, key=lambda each: each.path)),
        note=published.held_back,
    )
