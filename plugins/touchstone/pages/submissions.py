"""The pages of submissions: the list, and one by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from pydantic import JsonValue

from touchstone.client.answers import (
    Comparison,
    Results,
    ShownSubmission,
    ShownTask,
    SubmissionAnswer,
    SubmissionList,
)
from touchstone.client.forward import BEYOND_SUSPICION, describe_forward
from touchstone.client.tables import clean
from touchstone.client.waivers import describe_waivers
from touchstone.core.figures import read_figures
from touchstone.core.names import (
    VALIDATION_TASK_ID,
    find_submission_of_run,
    is_submission_id,
)
from touchstone.core.queue import Queue
from touchstone.core.schedule import MAX_ID, MAX_INTERVAL
from touchstone.core.states import SCHEDULABLE, SUBMISSION_OPEN, TASK_TERMINAL, SubmissionStatus
from touchstone.pages.open_pages import OpenPagesDep
from touchstone.pages.origin import require_same_origin
from touchstone.pages.plots import Plot
from touchstone.pages.rendering import Frame, lead, render
from touchstone.pages.training_charts import build_plots
from touchstone.services.events import EventKeeper
from touchstone.services.sending import Sender
from touchstone.stores.parts import Parts
from touchstone.stores.records import RecordStore
from touchstone.stores.tables import RecordNotFound
from touchstone.ui.dependencies import (
    Caller,
    CallerDep,
    CancelServiceDep,
    ClockDep,
    PartsDep,
    QueueDep,
    RecordsDep,
    require_submitter,
)
from touchstone.ui.queries import get_visible_submission, show_figures, show_results
from touchstone.ui.routes import events as events_api
from touchstone.ui.routes import submissions as api
from touchstone.ui.routes.events import KeeperDep
from touchstone.ui.routes.sending import SenderDep

router = APIRouter()

PAGE_SIZE = 50
MAX_RUN_ID = 250
THIS_TRAINING = "this training"
"""What the legend of a chart of one training calls it."""
_SENT = ("source", "system", "ref", "path", "waived_columns", "notes", "intervals", "event")
"""The page of a submission without a record shows these keys of its run's conf."""

CHANGES = [Depends(require_submitter), Depends(require_same_origin)]


@router.get("/", include_in_schema=False)
def begin(request: Request) -> RedirectResponse:
    """Lead to the list of submissions."""
    return lead(request, "/submissions")


@router.get("/submissions")
def list_submissions(
    request: Request,
    caller: CallerDep,
    records: RecordsDep,
    queue: QueueDep,
    clock: ClockDep,
    status: Annotated[str, Query(max_length=20)] = "",
    user: Annotated[str, Query(max_length=250)] = "",
    cursor: Annotated[str | None, Query(max_length=512)] = None,
) -> HTMLResponse:
    """Show the newest submissions that the caller may see, page by page."""
    known = status in set(SubmissionStatus)
    found = SubmissionList.model_validate(
        api.list_submissions(
            caller,
            records,
            queue,
            clock,
            status=SubmissionStatus(status) if known else None,
            # A form sends its empty fields, too.
            user=user.strip() or None,
            limit=PAGE_SIZE,
            cursor=cursor,
        )
    )
    frame = Frame(caller=caller, now=clock(), area="submissions", dispatcher=found.dispatcher)
    return render(
        request,
        "submissions.html",
        frame,
        {
            "submissions": found.submissions,
            "following": found.next,
            "is_first": cursor is None,
            "status": status if known else "",
            "user": user.strip(),
            "statuses": tuple(SubmissionStatus),
        },
    )


@router.get("/submissions/{submission_id}")
def show_submission(
    request: Request,
    caller: CallerDep,
    records: RecordsDep,
    parts: PartsDep,
    queue: QueueDep,
    keeper: KeeperDep,
    clock: ClockDep,
    sender: SenderDep,
    open_pages: OpenPagesDep,
    submission_id: str,
    run: Annotated[str, Query(max_length=MAX_RUN_ID)] = "",
    interval: Annotated[int | None, Query(ge=1, le=MAX_INTERVAL)] = None,
    task: Annotated[str, Query(max_length=MAX_ID)] = "",
) -> HTMLResponse:
    """
    Show a submission with its tasks, its results, and what was said of it.

    :param run: A run of its that was started a moment ago.
    :param interval: Whose charts are shown; the first that has some without it.
    :param task: The same of a fold, by its task's id.
    """

    def build() -> HTMLResponse:
        return _show_submission(
            request,
            caller,
            records,
            parts,
            queue,
            keeper,
            clock,
            sender,
            submission_id,
            run=run,
            interval=interval,
            task=task,
        )

    return open_pages.show(request, caller, build)


def _show_submission(
    request: Request,
    caller: Caller,
    records: RecordStore,
    parts: Parts,
    queue: Queue | None,
    keeper: EventKeeper,
    clock: ClockDep,
    sender: Sender,
    submission_id: str,
    *,
    run: str,
    interval: int | None,
    task: str,
) -> HTMLResponse:
    try:
        submission = get_visible_submission(records, caller, submission_id)
    except RecordNotFound:
        waiting = _find_unregistered(sender, caller, records, submission_id)
        if waiting is None:
            raise
        frame = Frame(caller=caller, now=clock(), area="submissions")
        values = {"submission_id": submission_id, "facts": waiting}
        return render(request, "starting.html", frame, values)
    # What open pages ask for over and over is read once each time.
    tasks = records.list_tasks(submission_id)
    found = SubmissionAnswer.model_validate(api.show_with_tasks(submission, tasks, queue, clock()))
    results = Results.model_validate(show_results(submission, parts))
    said = Comparison.model_validate(
        {"rows": events_api.list_verdicts(keeper, submission_id, submission)}
    )
    frame = Frame(caller=caller, now=clock(), area="submissions", dispatcher=found.dispatcher)
    charted = list_charted(found.tasks)
    wanted = [each for each in charted if task == each.task_id]
    wanted += [each for each in charted if interval == each.interval]
    chosen = next(iter([*wanted, *charted]), None)
    plots: list[Plot] = []
    no_charts: JsonValue = None
    if chosen is not None:
        key = (submission_id, chosen.task_id)
        stored = show_figures(next(each for each in tasks if each.key == key), parts)
        plots, no_charts = build_plots([(THIS_TRAINING, read_figures(stored))]), stored["note"]
    # Only a run that could be its own: an address with any other says nothing of it.
    is_own = find_submission_of_run(run) == submission_id
    is_starting = is_own and run not in found.submission.run_ids
    return render(
        request,
        "submission.html",
        frame,
        {
            "submission": found.submission,
            "facts": _list_facts(found.submission),
            "tasks": found.tasks,
            "failed": next((task for task in found.tasks if _has_failed(task)), None),
            "results": results,
            "forward": describe_forward(results.forward, results.forward_note),
            "beyond_suspicion": BEYOND_SUSPICION,
            "charted": charted,
            "shown": chosen,
            "plots": plots,
            "no_charts": no_charts,
            "said": said.rows,
            "open_tasks": sum(task.status not in set(TASK_TERMINAL) for task in found.tasks),
            "is_live": found.submission.status in set(SUBMISSION_OPEN) or is_starting,
            "starting": run if is_starting else None,
            "may_schedule": _may_be_scheduled(found),
            "was_trained": _was_trained(found),
            "is_retracted": found.submission.status == SubmissionStatus.RETRACTED,
        },
    )


def list_charted(tasks: Iterable[ShownTask]) -> list[ShownTask]:
    """Return the trainings whose charts may be shown, the smallest interval first."""
    return sorted(
        (
            each
            for each in tasks
            if each.interval is not None and each.published is not None and each.published.drawn
        ),
        key=lambda each: (each.interval or 0, each.task_id),
    )


@router.get("/submissions/{submission_id}/tasks/{task_id}/charts.json")
def download_charts(
    caller: CallerDep, records: RecordsDep, parts: PartsDep, submission_id: str, task_id: str
) -> JSONResponse:
    """Return what the judge's charts of a training show, for the browser to keep."""
    figures = api.get_charts(caller, records, parts, submission_id, task_id)
    name = f"{submission_id}-{task_id}-charts.json"
    return JSONResponse(figures, headers={"Content-Disposition": f'attachment; filename="{name}"'})


@router.post("/submissions/{submission_id}/cancel", dependencies=CHANGES)
def cancel_submission(
    request: Request,
    caller: CallerDep,
    records: RecordsDep,
    cancel_service: CancelServiceDep,
    submission_id: str,
) -> RedirectResponse:
    """End a submission's tasks and runs, and show it."""
    body = api.CancelBody()
    api.cancel_submission(caller, records, cancel_service, submission_id, body)
    return lead(request, f"/submissions/{submission_id}")


@router.post("/submissions/{submission_id}/retract", dependencies=CHANGES)
def retract_submission(
    request: Request,
    caller: CallerDep,
    records: RecordsDep,
    cancel_service: CancelServiceDep,
    submission_id: str,
) -> RedirectResponse:
    """Withdraw a submission for good, and show it."""
    body = api.RetractBody()
    api.retract_submission(caller, records, cancel_service, submission_id, body)
    return lead(request, f"/submissions/{submission_id}")


def _has_failed(task: ShownTask) -> bool:
    return task.status in {"error", "lost"}


def _find_unregistered(
    sender: Sender, caller: Caller, records: RecordStore, submission_id: str
) -> list[tuple[str, str]] | None:
    """
    Return what was sent as a submission whose run has not put it on record.

    :return: ``None`` if there is no such run that goes on, or it is somebody else's.
    """
    run = sender.find_run(submission_id) if is_submission_id(submission_id) else None
    if run is None or not (caller.is_admin or run.user == caller.name):
        return None
    has_ended = sender.find_states([submission_id]).get(submission_id) in {"success", "failed"}
    if has_ended or records.find_submission(submission_id) is not None:
        return None
    conf = run.conf if isinstance(run.conf, Mapping) else {}
    return [(name, clean(str(conf[name]))) for name in _SENT if conf.get(name)]


def _may_be_scheduled(found: SubmissionAnswer) -> bool:
    """Tell whether it is worth offering a schedule; the plan says why not if it is none."""
    was_accepted = found.submission.status in {"accepted", "success"} or _was_trained(found)
    return (
        was_accepted
        and found.submission.status in set(SCHEDULABLE)
        and not found.submission.replay_of
    )


def _was_trained(found: SubmissionAnswer) -> bool:
    return any(task.task_id != VALIDATION_TASK_ID for task in found.tasks)


def _list_facts(submission: ShownSubmission) -> list[tuple[str, str]]:
    """Return what is to be told of a submission, but for its state and its figures."""
    branch = submission.elnigma
    facts = {
        "kind": submission.system,
        "source": submission.source_url,
        "ref": submission.source_ref,
        "folder": submission.source_path,
        **describe_waivers(submission.waived_columns),
        "commit": submission.commit,
        "el-nigma": f"{branch.branch} at {branch.commit}" if branch else None,
        "content": submission.content_sha256,
        "left out": "; ".join(submission.remarks),
        "replay of": submission.replay_of,
        "notes": submission.notes,
        "runs": ", ".join(submission.run_ids),
    }
    return [(name, clean(value)) for name, value in facts.items() if value]
