"""
How a task's record changes: by a new attempt, by what its agent says, by a wish to cancel.

Every function takes the record as it is and returns the fields to set, or ``None`` when there is
nothing to change: a late, repeated or outranked event is simply not one. The record is the
truth; queues only deliver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from touchstone.core.conf import Platform
from touchstone.core.holds import find_refusal
from touchstone.core.outcomes import Outcome, judge_exit
from touchstone.core.states import TASK_TERMINAL, TaskStatus, is_task_move
from touchstone.core.tasks import TaskSpec, choose_image
from touchstone_agent.protocol.facts import ExitFacts, PreparedFacts
from touchstone_agent.protocol.messages import (
    FINAL_PHASES,
    AttemptPhase,
    AttemptRef,
    Limits,
    PhaseChanged,
    Progress,
    Refusal,
    SlotClass,
)
from touchstone_agent.protocol.words import build_line, describe_refusal

Record = dict[str, Any]

_PER_ATTEMPT: dict[str, Any] = {
    "phase": None,
    "progress_phase": None,
    "percent": 0,
    "eta_seconds": None,
    "metrics": {},
    "console_bytes": 0,
    "container": None,
    "gpus": None,
    "image": None,
    "image_digest": None,
    "intent_at": None,
    "last_event_at": None,
    "accepted_at": None,
    "preparing_at": None,
    "running_at": None,
    "exited_at": None,
    "uploaded_at": None,
    "ended_at": None,
    "exit_code": None,
    "outcome": None,
    "failure_class": None,
    "is_retriable": None,
    "reason": None,
    "verdict": None,
    "files": [],
    "files_part": None,
    "cancel": None,
    "published": None,
    "placement": None,
    "pod": None,
}
"""Fields that belong to the newest attempt, as they are before it has done anything."""

_KEPT = (
    "run_id",
    "attempt",
    "fence",
    "platform",
    "server",
    "container",
    "gpus",
    "image",
    "image_digest",
    "phase",
    "exit_code",
    "outcome",
    "failure_class",
    "reason",
    "intent_at",
    "running_at",
    "ended_at",
    "console_bytes",
    "placement",
    "pod",
)
"""What is remembered of an attempt when the next one takes its place."""

MAX_REMEMBERED = 30
"""Newest attempts that are remembered like that."""

MAX_OUTLINES = 100
"""Attempts before those, of which only an outline is remembered: as many as Airflow tries at most
before somebody clears the task, so that every ledger counts what it should."""

_OUTLINE = (
    *("run_id", "attempt", "fence", "platform", "server", "phase", "exit_code"),
    *("outcome", "failure_class", "intent_at", "ended_at"),
)
_OUTLINE_OF_A_POD = (
    *("id", "name", "price_per_hour", "ordered_at", "ending_at", "gone_at"),
    *("seconds", "usd", "is_billed"),
)

MAX_REASON = 1000
_MAX_REMEMBERED_REASON = 300

OUT_OF_MEMORY = "oom"
"""Class of a failure for which only more memory helps."""

NO_DEVICE = "device"
"""Class of a failure for which another GPU helps: the trainer saw none where it was given one."""

CLOCK_SKEW = timedelta(minutes=10)
"""How wrong a server's clock may be; a time beyond that is taken for the nearest that may be."""

RENTAL_CLASSES = frozenset({"capacity", "funds", "budget", "account", "order"})
"""Classes of failures to rent a pod: nothing has run, and nobody has failed."""

_ORDER = {
    AttemptPhase.ACCEPTED: 1,
    AttemptPhase.PREPARING: 2,
    AttemptPhase.RUNNING: 3,
    AttemptPhase.EXITED: 4,
    AttemptPhase.UPLOADED: 5,
    AttemptPhase.REJECTED: 6,
    AttemptPhase.CANCELLED: 6,
    AttemptPhase.LOST: 6,
}
"""An attempt only ever goes up here."""


def new_task(spec: TaskSpec, *, run_id: str, map_index: int, now: datetime) -> Record:
    """Return the record of a task that waits for its first attempt."""
    return {
        "submission_id": spec.submission_id,
        "task_id": spec.task_id,
        "kind": spec.kind.value,
        "interval": spec.interval,
        "model_group_id": spec.submission_id,
        "run_id": run_id,
        "map_index": map_index,
        "status": TaskStatus.QUEUED.value,
        "config": spec.model_dump(mode="json"),
        "platform": None,
        "server": None,
        "fence": 0,
        "attempt": 0,
        "attempts": [],
        "created_at": now.isoformat(),
        **_PER_ATTEMPT,
    }


def renew_task(record: Record, spec: TaskSpec, *, run_id: str, map_index: int) -> Record:
    """
    Return what a task of an earlier run becomes when a new run wants it again.

    The fence goes up: whatever carries the old one is outranked from now on, and an event of it
    that comes late changes nothing.
    """
    return {
        "fence": int(record.get("fence") or 0) + 1,
        "run_id": run_id,
        "map_index": map_index,
        "config": spec.model_dump(mode="json"),
        "status": TaskStatus.QUEUED.value,
        **_remember(record),
        "attempt": 0,
        **_PER_ATTEMPT,
    }


def remember_attempt(record: Record) -> list[Record]:
    """Return the ended attempts, the newest one included if there was one."""
    history = list(record.get("attempts") or [])
    fence = record.get("fence") or 0
    if fence and record.get("attempt") and all(item.get("fence") != fence for item in history):
        newest = {key: record.get(key) for key in _KEPT}
        history.append({**newest, "reason": cut(newest["reason"], _MAX_REMEMBERED_REASON)})
    return history


def _remember(record: Record) -> Record:
    """
    Return the fields that hold a task's history when its newest attempt becomes part of it.

    A record has room for so much: of older attempts an outline is kept, and of those before them
    only how many they were and what they cost. What a ledger or an open bill still needs stays.
    """
    history = remember_attempt(record)
    older = len(history) - MAX_REMEMBERED
    dropped = older - MAX_OUTLINES
    earlier = dict(record.get("earlier") or {"count": 0, "pods": 0, "usd": "0"})
    kept = []
    for number, item in enumerate(history):
        pod = item.get("pod") or {}
        is_needed = is_rented(pod) or (
            # Each of these has doubled the memory of all that follow in this run.
            item.get("failure_class") == OUT_OF_MEMORY and item.get("run_id") == record["run_id"]
        )
        if number < dropped and not is_needed:
            earlier["count"] += 1
            if pod:
                earlier["pods"] += 1
                earlier["usd"] = str(Decimal(earlier["usd"]) + Decimal(str(pod.get("usd") or 0)))
        else:
            kept.append(_outline(item) if number < older else item)
    return {"attempts": kept, "earlier": earlier}


def _outline(attempt: Record) -> Record:
    """Return what the ledgers need of an attempt, and of its pod what its bill needs."""
    outline = {key: attempt.get(key) for key in _OUTLINE}
    outline["placement"] = {"max_tries": _get_max_tries(attempt)}
    pod = attempt.get("pod")
    if pod:
        outline["pod"] = pod if is_rented(pod) else {k: pod.get(k) for k in _OUTLINE_OF_A_POD}
    return outline


def cut(text: str | None, limit: int = MAX_REASON) -> str | None:
    """Return a text that others wrote, no longer than a record has room for."""
    return text if text is None or len(text) <= limit else f"{text[: limit - 3]}..."


def find_attempts_of_run(record: Record) -> list[Record]:
    """Return the attempts that the task has had in its present run, the newest one included."""
    return [
        item for item in remember_attempt(record) if item.get("run_id") in {None, record["run_id"]}
    ]


def _find_attempts_since_clear(record: Record) -> list[Record]:
    """Return those of its present run that came after somebody last cleared the task."""
    limit = _get_max_tries(record)
    return [item for item in find_attempts_of_run(record) if _get_max_tries(item) == limit]


def _get_max_tries(attempt: Record) -> int | None:
    """Return Airflow's limit of tries as it was for an attempt: a clear raises it, a retry not."""
    limit = (attempt.get("placement") or {}).get("max_tries")
    return None if limit is None else int(limit)


def claim_attempt(
    record: Record,
    *,
    attempt: int,
    server: str,
    container_of: Any,
    now: datetime,
    gpus: int = 0,
    placement: Mapping[str, Any] | None = None,
    platform: Platform = Platform.ON_PREM,
) -> Record:
    """
    Write down the intent to start an attempt, before anything is sent.

    :param attempt: Airflow's try number.
    :param server: The server it will go to.
    :param container_of: Function from the attempt's reference to its container's name.
    :param now: The time, UTC.
    :param gpus: GPUs that the server hands over.
    :param placement: Why it goes there, and what was expected of its wait.
    :param platform: What that server is; RunPod is one, too, whose every attempt has its own pod.
    :return: Fields to set; the new fence outranks every older attempt.
    """
    fence = int(record.get("fence") or 0) + 1
    ref = AttemptRef(
        submission_id=record["submission_id"],
        task_id=record["task_id"],
        attempt=attempt,
        fence=fence,
    )
    is_pod = platform is Platform.RUNPOD
    return {
        **_PER_ATTEMPT,
        **_remember(record),
        "status": TaskStatus.QUEUED.value,
        "attempt": attempt,
        "fence": fence,
        "server": server,
        "platform": platform.value,
        # What a pod is, and what it runs, its order says.
        "gpus": None if is_pod else gpus,
        "image": None if is_pod else _choose_image(record, gpus),
        "container": container_of(ref),
        "intent_at": now.isoformat(),
        "placement": dict(placement) if placement else None,
    }


def _choose_image(record: Record, gpus: int) -> str:
    config = record["config"]
    return choose_image(str(config.get("image") or ""), config.get("image_cuda"), gpus=gpus)


def count_gpus(attempt: Record) -> int:
    """Return how many GPUs an attempt holds: its server's, or its pod's."""
    pod = attempt.get("pod")
    if pod:
        return int(bool(pod.get("gpu")))
    gpus = attempt.get("gpus")
    if gpus is None:
        # The version before wrote it down with the placement only.
        gpus = (attempt.get("placement") or {}).get("gpus")
    return int(gpus or 0)


def build_attempt_spec(record: Record) -> TaskSpec:
    """
    Return what the newest attempt runs: the task's spec, with more memory if it ran out of it.

    Each attempt that was ended for memory doubles it for the next one, which therefore needs a
    server that has as much.
    """
    spec = TaskSpec.model_validate(record["config"])
    # The newest attempt itself is not over yet, or it is the one that this is for.
    times = sum(
        item.get("failure_class") == OUT_OF_MEMORY
        for item in find_attempts_of_run(record)
        if item.get("fence") != record["fence"]
    )
    if not times:
        return spec
    memory_mib = spec.limits.memory_mib * 2**times
    return spec.model_copy(
        update={"limits": spec.limits.model_copy(update={"memory_mib": memory_mib})}
    )


def get_ref(record: Record) -> AttemptRef:
    """
    Return the reference of a task's newest attempt.

    :raises ValueError: If it never had one.
    """
    return AttemptRef(
        submission_id=record["submission_id"],
        task_id=record["task_id"],
        attempt=record["attempt"],
        fence=record["fence"],
    )


def is_ended(record: Record) -> bool:
    """Tell whether the newest attempt has ended and only its files may still be moving."""
    return TaskStatus(record["status"]) in TASK_TERMINAL


def is_at_work(record: Record) -> bool:
    """Tell whether an attempt of a task is under way, or one of its pods may still be billed."""
    if record.get("attempt") and not is_ended(record):
        return True
    pods = (item.get("pod") or {} for item in (*(record.get("attempts") or ()), record))
    return any(is_rented(pod) for pod in pods)


def is_rented(pod: Record) -> bool:
    """Tell whether a pod may be billed: it was ordered, and is not proven gone."""
    return bool(pod.get("ordered_at") and not pod.get("gone_at"))


def request_cancel(record: Record, *, by: str, reason: str, now: datetime) -> Record | None:
    """
    Write down that a task's newest attempt must end.

    :return: Fields to set; ``None`` if it has ended, or the wish is on record already.
    """
    if is_ended(record):
        return None
    cancel = record.get("cancel")
    if cancel and cancel["through_fence"] >= record["fence"]:
        return None
    changes: Record = {
        "cancel": {
            "through_fence": record["fence"],
            "by": by,
            "at": now.isoformat(),
            "reason": reason,
        }
    }
    if not record.get("attempt"):
        # No attempt was ever sent, so no agent will report its end.
        changes |= _ended(TaskStatus.CANCELLED, Outcome.CANCELLED, reason, now)
    return changes


def apply_phase(
    record: Record,
    event: PhaseChanged,
    *,
    now: datetime,
    files_part: Mapping[str, Any] | None = None,
) -> Record | None:
    """
    Say what a task becomes by a phase its agent reports.

    :param files_part: Where its list of files is kept, if that is too long for the record.
    :return: Fields to set; ``None`` if the event is outranked, repeated or out of order.
    """
    if event.ref.fence != record.get("fence"):
        return None
    old = record.get("phase")
    if old is not None and (
        AttemptPhase(old) in FINAL_PHASES or _ORDER[event.phase] <= _ORDER[AttemptPhase(old)]
    ):
        return None
    moment = _bound_time(record, event.at, now)
    changes: Record = {"phase": event.phase.value, "last_event_at": now.isoformat()}
    at, details = moment.isoformat(), event.details
    if event.phase is AttemptPhase.ACCEPTED:
        changes |= {"accepted_at": at, "status": TaskStatus.PREPARING.value}
    elif event.phase is AttemptPhase.PREPARING:
        changes |= {
            "preparing_at": at,
            "status": TaskStatus.PREPARING.value,
            "image_digest": _find_image_digest(details),
        }
    elif event.phase is AttemptPhase.RUNNING:
        changes |= {"running_at": at, "status": TaskStatus.RUNNING.value}
    elif event.phase is AttemptPhase.EXITED:
        changes |= {"exited_at": at} | _apply_exit(record, details, moment, files_part)
    elif event.phase is AttemptPhase.UPLOADED:
        changes |= {"uploaded_at": at}
        if record.get("exited_at") is None:
            # The report of the exit was lost on its way; this one repeats its facts.
            changes |= {"exited_at": at} | _apply_exit(record, details, moment, files_part)
    elif event.phase is AttemptPhase.CANCELLED:
        changes |= _ended(TaskStatus.CANCELLED, Outcome.CANCELLED, event.reason, moment)
    elif event.phase is AttemptPhase.REJECTED:
        reason = f"server {record['server']} refused: {event.reason}"
        changes |= _ended(TaskStatus.ERROR, Outcome.FAILED_INFRASTRUCTURE, reason, moment)
        changes |= _classify_refusal(details)
    else:
        changes |= _ended(TaskStatus.LOST, Outcome.LOST, event.reason, moment)
        changes |= _classify_refusal(details)
    status = TaskStatus(changes["status"] if "status" in changes else record["status"])
    if is_ended(record) or not is_task_move(TaskStatus(record["status"]), status):
        # The end is on record already; a straggler's facts may be added, its status may not.
        changes = {key: value for key, value in changes.items() if key in {"phase", "uploaded_at"}}
    return changes


def _classify_refusal(details: Mapping[str, Any]) -> Record:
    refusal = find_refusal(details)
    if refusal is None:
        return {}
    # No server can run what cannot be named; any other refusal is one server's.
    is_final = {"is_retriable": False} if refusal is Refusal.NAME else {}
    return {"failure_class": refusal.value} | is_final


def refuse_phase(
    record: Record, event: PhaseChanged, *, problem: str, now: datetime
) -> Record | None:
    """
    Say what a task becomes when a phase its agent reports cannot be put on record.

    :param problem: Why not.
    :return: Fields to set, which are few; ``None`` if the event changes nothing.
    """
    # Nothing of its own words: they may be what cannot be put on record, or even be read.
    bare = event.model_copy(update={"details": {}, "reason": None})
    changes = apply_phase(record, bare, now=now)
    if not changes or is_ended(record):
        return None
    phase = {key: changes[key] for key in ("phase", "last_event_at") if key in changes}
    return phase | end_unusable(record, problem, _bound_time(record, event.at, now))


def _bound_time(record: Record, at: datetime, now: datetime) -> datetime:
    """Return when something happened by another's clock, but within the attempt's own life."""
    begun = record.get("intent_at")
    earliest = datetime.fromisoformat(begun) if begun else now
    return min(max(at, earliest - CLOCK_SKEW), now + CLOCK_SKEW)


def _find_image_digest(details: Mapping[str, Any]) -> str | None:
    try:
        return PreparedFacts.model_validate(details).image_digest
    except ValidationError:
        return None


def _apply_exit(
    record: Record,
    details: Mapping[str, Any],
    at: datetime,
    files_part: Mapping[str, Any] | None,
) -> Record:
    try:
        said = ExitFacts.model_validate(details)
        _check_size(said, record)
    except ValidationError as error:
        return end_unusable(record, describe_refusal(error), at)
    except ValueError as error:
        return end_unusable(record, str(error), at)
    ending = judge_exit(said)
    facts: Record = {
        "exit_code": said.exit_code,
        "verdict": said.verdict.dump() if said.verdict else None,
        "files": [] if files_part else [file.model_dump() for file in said.files],
        "files_part": dict(files_part) if files_part else None,
    }
    if record.get("cancel") and ending.outcome is not Outcome.SUCCEEDED:
        reason = record["cancel"]["reason"]
        return facts | _ended(TaskStatus.CANCELLED, Outcome.CANCELLED, reason, at)
    if record["kind"] == SlotClass.VALIDATION and ending.failure_class == OUT_OF_MEMORY:
        # A training may fit a larger host; what validates has the same memory everywhere.
        ending = replace(ending, outcome=Outcome.FAILED_USER, is_retriable=False)
    if ending.failure_class == NO_DEVICE and not count_gpus(record):
        # It costs nobody anything, so it is believed only of what was given a GPU.
        ending = replace(ending, outcome=Outcome.FAILED_USER, failure_class="unknown")
    facts |= {
        "outcome": ending.outcome.value,
        "failure_class": ending.failure_class,
        "is_retriable": ending.is_retriable,
        "reason": cut(ending.reason),
    }
    if ending.outcome is not Outcome.SUCCEEDED:
        return facts | {"status": TaskStatus.ERROR.value, "ended_at": at.isoformat()}
    facts |= {"percent": 100, "eta_seconds": 0}
    if record["kind"] == SlotClass.VALIDATION:
        # The verdict came with the event: nothing has to be published.
        return facts | {"status": TaskStatus.SUCCESS.value, "ended_at": at.isoformat()}
    return facts | {"status": TaskStatus.UPLOADING.value}


def _check_size(said: ExitFacts, record: Record) -> None:
    limits = Limits.model_validate(record["config"].get("limits") or {})
    most = limits.output_bytes + limits.console_bytes
    if sum(file.size for file in said.files) > most:
        raise ValueError(f"files: more than the {most} bytes that it may leave")


def end_unusable(record: Record, problem: str, at: datetime) -> Record:
    """
    Say what a task becomes whose attempt reports what nobody can use or keep.

    It ends here: told again, the same report would be the same, and its slot would be held for
    ever. The fault is with where it ran, which should have refused it, so another attempt may do
    better elsewhere.

    :param problem: What is wrong with the report.
    :param at: When it was reported, UTC.
    :return: Fields to set.
    """
    where = record.get("server") or "its server"
    reason = f"{where} reported an end that makes no sense: {problem}"
    if record.get("cancel"):
        reason = record["cancel"]["reason"]
        return _ended(TaskStatus.CANCELLED, Outcome.CANCELLED, reason, at)
    reason = build_line(reason)
    return _ended(TaskStatus.ERROR, Outcome.FAILED_INFRASTRUCTURE, reason, at)


def refuse_start(record: Record, *, fence: int, reason: str, now: datetime) -> Record | None:
    """
    Say what a task becomes when the command that would start its attempt can never be sent.

    :return: ``None`` if that attempt is not the newest any more, or has ended.
    """
    if record["fence"] != fence or is_ended(record):
        return None
    ended = _ended(TaskStatus.ERROR, Outcome.FAILED_USER, reason, now)
    return {**ended, "failure_class": "config"}


def _ended(status: TaskStatus, outcome: Outcome, reason: str | None, at: datetime) -> Record:
    return {
        "status": status.value,
        "outcome": outcome.value,
        "reason": cut(reason),
        "failure_class": outcome.value,
        "is_retriable": outcome in {Outcome.LOST, Outcome.FAILED_INFRASTRUCTURE},
        "ended_at": at.isoformat(),
    }


def apply_progress(record: Record, event: Progress, *, now: datetime) -> Record | None:
    """Say what a task becomes by a progress report; only a running attempt has any."""
    if event.ref.fence != record.get("fence") or record["status"] != TaskStatus.RUNNING:
        return None
    return {
        "percent": event.percent,
        "progress_phase": event.phase,
        "eta_seconds": event.eta_seconds,
        "metrics": event.metrics,
        "console_bytes": event.console_bytes,
        "last_event_at": now.isoformat(),
    }


def declare_lost(
    record: Record, *, fence: int, reason: str, now: datetime, is_upload_lost: bool = False
) -> Record | None:
    """
    Say what a task becomes when nothing will be heard of its attempt any more.

    :param fence: The attempt that was judged; a newer one is left alone.
    :param is_upload_lost: Whether that holds for the files of a container that has ended well,
        too: usually they still come when the server is back.
    """
    if is_ended(record) or not record.get("attempt") or record["fence"] != fence:
        return None
    if record["status"] == TaskStatus.UPLOADING and not is_upload_lost:
        return None
    return {"phase": AttemptPhase.LOST.value} | _ended(TaskStatus.LOST, Outcome.LOST, reason, now)


def is_fulfilled(record: Record) -> bool:
    """
    Tell whether an attempt has come to what it was for.

    That is its models, or, of a validation, a verdict, good or bad: ``accept`` reads it.
    """
    outcome = record.get("outcome")
    is_judged = record["kind"] == SlotClass.VALIDATION and outcome == Outcome.FAILED_USER
    return bool(outcome == Outcome.SUCCEEDED or is_judged)


class WaitEnd(StrEnum):
    """What a trigger does when its attempt has ended."""

    SUCCEED = "succeed"
    RETRY = "retry"
    FAIL = "fail"


MAX_USER_FAILURES = 3
MAX_OUT_OF_MEMORY = 2
"""Attempts that may fail by the user's code, and for memory; other hosts' faults never count."""
MAX_NO_DEVICE = 5
"""Attempts that may see no GPU: submitted code could say so as well, and be tried for ever."""
MAX_VALIDATIONS = 3
"""Attempts of a validation, whoever's faults; what no server and no pod took was no attempt."""


def is_unrented(attempt: Record) -> bool:
    """Tell whether no pod was to be had for an attempt; the class alone may be submitted code's."""
    has_run = attempt.get("running_at") or attempt.get("exit_code") is not None
    return attempt.get("failure_class") in RENTAL_CLASSES and not has_run


def is_untaken(attempt: Record) -> bool:
    """Tell whether an attempt came to nothing because no server and no pod took it."""
    return attempt.get("phase") == AttemptPhase.REJECTED or is_unrented(attempt)


def may_retry(record: Record) -> bool:
    """Tell by the ledgers of its attempts whether a failed task gets another one."""
    if not record.get("is_retriable"):
        return False
    ended = _find_attempts_since_clear(record)
    if record["kind"] == SlotClass.VALIDATION:
        # Somebody waits for a verdict, and is told soon that there will be none.
        had = sum(not is_untaken(item) for item in ended)
        return had < MAX_VALIDATIONS
    by_user = sum(item.get("outcome") == Outcome.FAILED_USER for item in ended)
    by_memory = sum(item.get("failure_class") == OUT_OF_MEMORY for item in ended)
    by_device = sum(item.get("failure_class") == NO_DEVICE for item in ended)
    return bool(
        by_user < MAX_USER_FAILURES and by_memory < MAX_OUT_OF_MEMORY and by_device < MAX_NO_DEVICE
    )


def find_end(record: Record, *, fence: int, run_id: str) -> WaitEnd | None:
    """
    Say how the Airflow task that waits for an attempt ends.

    A validation succeeds as soon as there is a verdict. A training ends when its container has
    exited; its uploads go on behind it.

    :param fence: The attempt that is waited for; it may be the next one, of a task on deck.
    :param run_id: The DAG run that waits; what another run has taken over is not retried.
    :return: ``None`` while there is something to wait for. ``RETRY`` for what another attempt
        may mend, ``FAIL`` for what no attempt will.
    """
    if record["run_id"] != run_id:
        return WaitEnd.FAIL
    if record["fence"] > fence:
        return WaitEnd.RETRY
    if record["fence"] < fence:
        return None
    outcome = record.get("outcome")
    if outcome is None or is_rented(record.get("pod") or {}):
        # A pod is billed until it is gone, so it holds its slot until then.
        return None
    if is_fulfilled(record):
        return WaitEnd.SUCCEED
    if outcome == Outcome.CANCELLED:
        return WaitEnd.FAIL
    return WaitEnd.RETRY if may_retry(record) else WaitEnd.FAIL


def build_failure(record: Record) -> Record:
    """Return what a task says of an attempt that no other can mend."""
    return {key: record.get(key) for key in ("outcome", "failure_class", "reason")}


def find_settled(record: Record, *, run_id: str, attempt: int, max_tries: int) -> WaitEnd | None:
    """
    Say how a try ends for which there is nothing left to do.

    Airflow tries again for reasons of its own, too: when a worker dies that was to raise what a
    trigger had found, or when its scheduler hears of the end of the process that deferred only
    after the one that resumed has begun. That is no reason to train once more.

    :param run_id: The DAG run that tries.
    :param attempt: Airflow's number of the try that is about to begin.
    :param max_tries: Airflow's limit of tries now; another one than the last attempt's means
        that somebody has cleared the task, and wants it again.
    :return: How the last attempt ended; ``None`` if there is to be another one.
    """
    last = int(record.get("attempt") or 0)
    if record["run_id"] != run_id or not 0 < last < attempt or _get_max_tries(record) != max_tries:
        return None
    end = find_end(record, fence=record["fence"], run_id=run_id)
    return None if end is WaitEnd.RETRY else end
