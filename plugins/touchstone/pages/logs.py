"""The page of a task's console, and its download."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, StreamingResponse

from touchstone.client.answers import ShownTask
from touchstone.client.entering import AT_WORK, build_enter_command
from touchstone.client.errors import NotFound
from touchstone.core.answers.tasks import LogPage
from touchstone.core.records.tasks import Task
from touchstone.pages.attempts import list_facts, list_moments
from touchstone.pages.consoles import Piece, fold_piece
from touchstone.pages.open_pages import OpenPagesDep
from touchstone.pages.rendering import Frame, render
from touchstone.settings import Settings
from touchstone.stores.objects import ObjectStore
from touchstone.ui.console import (
    PAGE_BYTES,
    find_attempt,
    find_since,
    find_tail,
    iterate_console,
    name_attempt,
    read_page,
)
from touchstone.ui.dependencies import (
    CallerDep,
    ClockDep,
    ObjectsDep,
    RecordsDep,
    SettingsDep,
)
from touchstone.ui.queries import get_visible_submission

router = APIRouter()

MAX_FIND: Final = 200
"""Characters of what is searched for."""

Attempt = Annotated[str | None, Query(pattern=r"^\d{1,9}-\d{1,9}$")]


@router.get("/submissions/{submission_id}/tasks/{task_id}/log")
def show_log(
    request: Request,
    caller: CallerDep,
    records: RecordsDep,
    objects: ObjectsDep,
    settings: SettingsDep,
    clock: ClockDep,
    open_pages: OpenPagesDep,
    submission_id: str,
    task_id: str,
    offset: Annotated[int | None, Query(ge=0)] = None,
    attempt: Attempt = None,
    find: Annotated[str, Query(max_length=MAX_FIND)] = "",
) -> HTMLResponse:
    """Show a piece of a task's console, as a terminal would; without an offset, its end."""

    def build() -> HTMLResponse:
        get_visible_submission(records, caller, submission_id)
        task = records.get_task(submission_id, task_id)
        page, piece = _read(
            objects, settings, task, clock, attempt=attempt, offset=offset, find=find
        )
        chosen = find_attempt(task, attempt)
        at_work = task.status in AT_WORK and chosen is task.newest
        return render(
            request,
            "log.html",
            Frame(caller=caller, now=clock(), area="submissions"),
            {
                "submission_id": submission_id,
                "task_id": task_id,
                "page": page,
                "piece": piece,
                "moments": list_moments(chosen) if chosen else [],
                "facts": list_facts(task, chosen) if chosen else [],
                "since": find_since(chosen) if chosen else None,
                "following": _find_following(page),
                "find": find,
                "here": urlencode({"attempt": page.attempt or "", "offset": page.offset}),
                "of_attempt": urlencode({"attempt": page.attempt} if page.attempt else {}),
                "attempts": [
                    {
                        "name": name_attempt(each),
                        "place": each.server or ("RunPod" if each.pod else ""),
                        "outcome": str(each.outcome or ""),
                    }
                    for each in (*task.past, task.newest)
                    if each.number
                ],
                "enter": _tell_how_to_enter(task) if caller.is_admin and at_work else None,
                "newest": name_attempt(task.newest) if task.has_attempt else "",
                "is_tail": offset is None,
                "is_live": offset is None and not page.complete,
            },
        )

    return open_pages.show(request, caller, build)


@router.get("/submissions/{submission_id}/tasks/{task_id}/log.txt")
def download_log(
    caller: CallerDep,
    records: RecordsDep,
    objects: ObjectsDep,
    settings: SettingsDep,
    submission_id: str,
    task_id: str,
    attempt: Attempt = None,
) -> StreamingResponse:
    """Send a whole console, byte for byte, for the browser to keep."""
    get_visible_submission(records, caller, submission_id)
    task = records.get_task(submission_id, task_id)
    chunks = iterate_console(objects, settings.logs_bucket, task, attempt=attempt)
    chosen = find_attempt(task, attempt)
    name = "-".join((submission_id, task_id, *([name_attempt(chosen)] if chosen else [])))
    return StreamingResponse(
        chunks,
        media_type="text/plain; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}.log"'},
    )


def _read(
    objects: ObjectStore,
    settings: Settings,
    task: Task,
    clock: ClockDep,
    *,
    attempt: str | None,
    offset: int | None,
    find: str,
) -> tuple[LogPage, Piece]:
    """
    Return a piece of a console, and its lines.

    :param offset: Byte to begin at; ``None`` for the last page, from its first whole line on.
    """
    bucket, is_tail = settings.logs_bucket, offset is None
    begin = offset or 0
    if is_tail:
        begin = find_tail(objects, bucket, task, attempt=attempt)
    # The clock of an attempt would make another page of it each second.
    page = read_page(
        objects,
        bucket,
        task,
        attempt=attempt,
        offset=begin,
        now=clock(),
        from_line=is_tail,
        has_clock=False,
    )
    return page, fold_piece(page.text, find=find, is_tail=is_tail)


def _find_following(page: LogPage) -> int:
    """Return where the next piece begins: a line that may go on is shown again, as a whole."""
    is_full = page.next_offset - page.offset >= PAGE_BYTES
    begins_here = page.line_offset is None or page.line_offset <= page.offset
    if page.line_offset is None or (is_full and begins_here):
        return page.next_offset  # a line that is longer than a page
    return page.line_offset


def _tell_how_to_enter(task: Task) -> str | None:
    """Return the command that opens a shell where a task runs, and where to type it."""
    shown = ShownTask.model_validate(task.dump())
    if shown.pod is None and not shown.container:
        return None
    try:
        command, where = build_enter_command(shown)
    except NotFound:
        return None
    return f"{command}  # {where}"
