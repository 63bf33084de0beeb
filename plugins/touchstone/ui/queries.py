"""What may be read: records as they are shown, and only to those who may see them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal

from pydantic import JsonValue

from touchstone.core.figures import build_document
from touchstone.core.forward import tell_none
from touchstone.core.gpus import find_gpu_use
from touchstone.core.judging import hide_held_back, mark_reported
from touchstone.core.paging import Place
from touchstone.core.pod_attempts import compute_pod_cost, list_pods, sum_earlier
from touchstone.core.records.submissions import Submission, SubmissionSummary
from touchstone.core.records.tasks import Task, TaskEntry
from touchstone.core.results import tell_lines
from touchstone.core.states import SubmissionStatus
from touchstone.stores.objects import ObjectCorrupt, ObjectNotFound
from touchstone.stores.parts import Parts, read_published
from touchstone.stores.records import RecordStore
from touchstone.stores.tables import VERSION, RecordNotFound
from touchstone.ui.dependencies import Caller

log = logging.getLogger(__name__)

NO_CHARTS = "the judge has drawn none"

RESULT_FIELDS = (
    "submission_id",
    "status",
    "reason",
    "model_group_id",
    "score",
    "score_low",
    "score_high",
    "similarity",
    "beside",
    "verdict",
    "verdict_reason",
    "replay_of",
)


def get_visible_submission(records: RecordStore, caller: Caller, submission_id: str) -> Submission:
    """
    Return a submission that the caller may see.

    :raises RecordNotFound: If there is none, or it is somebody else's: nobody learns which.
    """
    submission = records.find_submission(submission_id)
    if submission is None or not may_see(caller, submission):
        raise RecordNotFound(f"there is no submission {submission_id!r}")
    return submission


def list_visible_submissions(
    records: RecordStore,
    caller: Caller,
    *,
    status: SubmissionStatus | None,
    user: str | None,
    limit: int,
    before: Place | None,
) -> tuple[tuple[SubmissionSummary, ...], Place | None]:
    """
    Return the newest submissions that the caller may see, in short.

    :param status: Only those in this status; ``None`` for all.
    :param user: Only those of this submitter; ``None`` for all.
    :param limit: How many at most.
    :param before: Where an earlier page ended; ``None`` for the newest.
    :return: The submissions, and where the next page begins: ``None`` if there is none.
    """
    owner = user if caller.is_admin else caller.name
    if user not in {None, owner}:
        return (), None
    page = records.list_submissions(
        limit=limit, status=status, owner=owner, before=before, model=SubmissionSummary
    )
    return page.records, page.next


def show_submission(submission: Submission) -> dict[str, JsonValue]:
    """Return a submission as it is shown: without what only the store needs."""
    stored = submission.dump()
    return {key: _drop_point(value) for key, value in stored.items() if key != VERSION}


def _drop_point(value: JsonValue) -> JsonValue:
    """Return a value with whole numbers as such: so they come out of a record, and are shown."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _drop_point(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_drop_point(item) for item in value]
    return value


def _show_stored(entry: TaskEntry[Task]) -> dict[str, JsonValue]:
    """Return a task as it is shown: without what only the store needs."""
    return {key: value for key, value in entry.stored.items() if key != VERSION}


def show_summary(entry: TaskEntry[Task], now: datetime) -> dict[str, JsonValue]:
    """Return a task as it is shown among those of its submission; also one that makes no sense."""
    if entry.task is None:
        log.error("%s; it is shown as it is stored", entry.problem)
        return _show_stored(entry) | {"cost": None, "gpu": None}
    cost, gpu = show_cost([entry.task], now), show_gpu(entry.task, now)
    published = entry.task.newest.published
    hidden: dict[str, JsonValue] = {}
    if published is not None and published.held_back:
        hidden["published"] = hide_held_back(published).dump()
    return _show_stored(entry) | {"cost": cost, "gpu": gpu} | hidden


def show_cost(tasks: Iterable[Task], now: datetime) -> dict[str, JsonValue] | None:
    """
    Return what the pods of tasks have cost, of all their attempts.

    :return: ``usd``, rounded to a cent only when it is shown, and ``is_open`` while some pod is
        still billed; ``None`` if there never was one.
    """
    found = list(tasks)
    costs = [compute_pod_cost(pod, now) for task in found for _, pod in list_pods(task)]
    costs += [(usd, False) for task in found if (usd := sum_earlier(task)) is not None]
    if not costs:
        return None
    usd = sum((amount for amount, _ in costs), Decimal())
    return {"usd": f"{usd:.4f}", "is_open": any(is_open for _, is_open in costs)}


def show_gpu(task: Task, now: datetime) -> dict[str, JsonValue] | None:
    """
    Return what a training has made of the GPU of its newest attempt.

    :return: The fields of :class:`~touchstone.core.gpus.GpuUse`, what a useful hour has cost, and
        ``note``: all of it in one line. ``None`` if it held no GPU.
    """
    use = find_gpu_use(task, now)
    return use.dump() if use else None


def show_results(submission: Submission, parts: Parts) -> dict[str, JsonValue]:
    """Return what a submission came to, with all its figures."""
    shown = show_submission(submission)
    document: Mapping[str, JsonValue] = shown
    if submission.results_part is not None:
        try:
            document = parts.get_table(submission.results_part)
        except (ObjectNotFound, ObjectCorrupt) as error:
            # The main figures are on record, and better than nothing.
            log.warning("the results of %s are incomplete: %s", submission.submission_id, error)
    return {field: shown.get(field) for field in RESULT_FIELDS} | {
        "results": tell_lines(document.get("results"), is_replay=submission.replay_of is not None),
        "chart_links": document.get("chart_links") or [],
        "forward": shown.get("forward") or [],
        "forward_note": tell_none(submission),
    }


def get_entry(records: RecordStore, submission_id: str, task_id: str) -> TaskEntry[Task]:
    """
    Return a task, whether or not its record makes sense.

    :raises RecordNotFound: If there is none.
    """
    entry = records.find_tasks([(submission_id, task_id)]).get((submission_id, task_id))
    if entry is None:
        raise RecordNotFound(f"submission {submission_id!r} has no task {task_id!r}")
    return entry


def show_task(entry: TaskEntry[Task], parts: Parts, now: datetime) -> dict[str, JsonValue]:
    """Return a task as it is shown, with all the figures of what it has published."""
    task = entry.task
    if task is None:
        log.error("%s; it is shown as it is stored", entry.problem)
        return _show_stored(entry) | {"gpu": None}
    published = read_published(task, parts)
    return _show_stored(entry) | {
        "published": hide_held_back(mark_reported(published)).dump() if published else None,
        "gpu": show_gpu(task, now),
    }


def show_figures(entry: TaskEntry[Task], parts: Parts) -> dict[str, JsonValue]:
    """
    Return what the judge's charts of a task show.

    :return: ``figures`` by the chart's name, ``notes`` on those that are not there, the name of the
        ``baseline`` beside them, and in ``note`` why there are none.
    """
    published = entry.task.newest.published if entry.task else None
    shown = hide_held_back(published) if published else None
    note = (published.charts_note if published else None) or NO_CHARTS
    if shown is not None and shown.drawn is not None:
        try:
            return {**parts.get_table(shown.drawn), "note": None}
        except (ObjectNotFound, ObjectCorrupt) as error:
            log.warning("the charts of %s are incomplete: %s", entry.name, error)
            note = "they can no longer be read"
    return {**build_document({}, {}, None), "note": note}


def may_see(caller: Caller, submission: Submission) -> bool:
    """Tell whether a submission is the caller's to see."""
    return caller.is_admin or submission.submitted_by == caller.name
