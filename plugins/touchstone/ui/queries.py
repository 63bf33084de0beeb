"""What may be read: records as they are shown, and only to those who may see them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any

from touchstone.core.gpus import find_gpu_use
from touchstone.core.paging import Place
from touchstone.core.pod_attempts import compute_pod_cost, list_pods, sum_earlier
from touchstone.core.states import SubmissionStatus
from touchstone.hooks.objects import ObjectCorrupt, ObjectNotFound
from touchstone.hooks.parts import Parts, read_published
from touchstone.hooks.records import VERSION, Record, RecordNotFound, RecordStore
from touchstone.ui.dependencies import Caller

log = logging.getLogger(__name__)

SUMMARY_FIELDS = (
    "submission_id",
    "system",
    "status",
    "submitted_by",
    "created_at",
    "ended_at",
    "notes",
    "source_url",
    "reason",
    "score",
    "score_low",
    "score_high",
    "verdict",
)
RESULT_FIELDS = (
    "submission_id",
    "status",
    "reason",
    "model_group_id",
    "score",
    "score_low",
    "score_high",
    "similarity",
    "verdict",
    "verdict_reason",
)


def get_visible_submission(records: RecordStore, caller: Caller, submission_id: str) -> Record:
    """
    Return a submission that the caller may see.

    :raises RecordNotFound: If there is none, or it is somebody else's: nobody learns which.
    """
    record = records.find_submission(submission_id)
    if record is None or not _may_see(caller, record):
        raise RecordNotFound(f"there is no submission {submission_id!r}")
    return record


def list_visible_submissions(
    records: RecordStore,
    caller: Caller,
    *,
    status: SubmissionStatus | None,
    user: str | None,
    limit: int,
    before: Place | None,
) -> tuple[list[Record], Place | None]:
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
        return [], None
    page = records.list_submissions(
        limit=limit, status=status, owner=owner, before=before, fields=SUMMARY_FIELDS
    )
    return [_pick(record, SUMMARY_FIELDS) for record in page.records], page.next


def show_record(record: Record) -> Record:
    """Return a submission, or a task, as it is shown: without what only the store needs."""
    return {key: value for key, value in record.items() if key != VERSION}


def show_cost(tasks: Iterable[Record], now: datetime) -> dict[str, Any] | None:
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


def show_gpu(task: Record, now: datetime) -> dict[str, Any] | None:
    """
    Return what a training has made of the GPU of its newest attempt.

    :return: The fields of :class:`~touchstone.core.gpus.GpuUse`, what a useful hour has cost, and
        ``note``: all of it in one line. ``None`` if it held no GPU.
    """
    use = find_gpu_use(task, now)
    return use.dump() if use else None


def show_results(record: Record, parts: Parts) -> dict[str, Any]:
    """Return what a submission came to, with all its figures."""
    part = record.get("results_part")
    document = record
    if part is not None:
        try:
            document = parts.get(part)
        except (ObjectNotFound, ObjectCorrupt) as error:
            # The main figures are on record, and better than nothing.
            log.warning("the results of %s are incomplete: %s", record["submission_id"], error)
    return _pick(record, RESULT_FIELDS) | {
        "results": document.get("results") or [],
        "chart_links": document.get("chart_links") or [],
    }


def show_task(record: Record, parts: Parts, now: datetime) -> Record:
    """Return a task as it is shown, with all the figures of what it has published."""
    return show_record(record) | {
        "published": read_published(record, parts),
        "gpu": show_gpu(record, now),
    }


def _may_see(caller: Caller, record: Record) -> bool:
    return caller.is_admin or record.get("submitted_by") == caller.name


def _pick(record: Record, fields: tuple[str, ...]) -> Record:
    return {field: record.get(field) for field in fields}
