"""
What a task becomes by what is said of its newest attempt: by its agent, its pod, or who ends it.

Servers' events and pods' answers come to the same functions. Each takes the task as it is and
returns the task as it becomes, or ``None`` when there is nothing to change: a late, repeated or
outranked report is simply not one. The record is the truth; queues only deliver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from pydantic import JsonValue, ValidationError

from touchstone.core.attempts import MAX_REASON, NO_DEVICE, OUT_OF_MEMORY, count_gpus
from touchstone.core.holds import find_refusal
from touchstone.core.judging import accept_server_judged, refuse_judging
from touchstone.core.judging_rules import build_rules
from touchstone.core.outcomes import Outcome, judge_exit
from touchstone.core.records.judged import Judged
from touchstone.core.records.kept import StoredPart
from touchstone.core.records.tasks import Cancel, Published, StoredFile, Task, Verdict, cut
from touchstone.core.states import TaskStatus, is_task_move
from touchstone.core.tasks import find_held_data
from touchstone_agent.protocol.facts import ExitFacts, PreparedFacts
from touchstone_agent.protocol.messages import (
    FINAL_PHASES,
    AttemptPhase,
    PhaseChanged,
    Progress,
    Refusal,
    SlotClass,
)
from touchstone_agent.protocol.private import ServerJudged
from touchstone_agent.protocol.words import build_line, describe_refusal

_UNDER_WAY = frozenset({TaskStatus.PREPARING, TaskStatus.RUNNING})

CLOCK_SKEW = timedelta(minutes=10)
"""How wrong a server's clock may be; a time beyond that is taken for the nearest that may be."""

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


def request_cancel(task: Task, *, by: str, reason: str, now: datetime) -> Task | None:
    """
    Return a task whose newest attempt must end.

    :return: ``None`` if it has ended, or the request is on record already. A task without an
        attempt ends by the request.
    """
    if task.is_ended:
        return None
    cancel = task.newest.cancel
    if cancel is not None and cancel.through_fence >= task.fence:
        return None
    wanted = task.advance(cancel=Cancel(through_fence=task.fence, by=by, at=now, reason=reason))
    if not task.has_attempt:
        # No attempt was ever sent, so no agent will report its end.
        return end_attempt(wanted, TaskStatus.CANCELLED, Outcome.CANCELLED, reason, now)
    return wanted


def apply_phase(
    task: Task, event: PhaseChanged, *, now: datetime, files_part: StoredPart | None = None
) -> Task | None:
    """
    Say what a task becomes by a phase its agent reports.

    :param files_part: Where its list of files is kept, if that is too long for the record.
    :return: ``None`` if the event is outranked, repeated or out of order.
    """
    if event.ref.fence != task.fence:
        return None
    old = task.newest.phase
    if old is not None and (old in FINAL_PHASES or _ORDER[event.phase] <= _ORDER[old]):
        return None
    moment = _bound_time(task, event.at, now)
    after = _take_phase(
        task.advance(phase=event.phase, last_event_at=now), event, moment, files_part
    )
    if task.is_ended or not is_task_move(task.status, after.status):
        # The end is on record already; a straggler's facts may be added, its status may not.
        uploaded_at = after.newest.uploaded_at
        late = task.advance(phase=event.phase)
        return late.advance(uploaded_at=uploaded_at) if uploaded_at else late
    return after


def _take_phase(
    task: Task, event: PhaseChanged, moment: datetime, files_part: StoredPart | None
) -> Task:
    """Return what a task becomes by a phase of its own newest attempt, whatever its status was."""
    details = event.details
    match event.phase:
        case AttemptPhase.ACCEPTED:
            return task.advance(TaskStatus.PREPARING, accepted_at=moment)
        case AttemptPhase.PREPARING:
            return task.advance(
                TaskStatus.PREPARING,
                percent=0,
                progress_phase=None,
                preparing_at=moment,
                image_digest=_find_image_digest(details),
            )
        case AttemptPhase.RUNNING:
            # What was told until now was of its image, not of itself.
            return task.advance(
                TaskStatus.RUNNING, percent=0, progress_phase=None, running_at=moment
            )
        case AttemptPhase.EXITED:
            return _apply_exit(task.advance(exited_at=moment), details, moment, files_part)
        case AttemptPhase.UPLOADED:
            uploaded = task.advance(uploaded_at=moment, judged=_find_judged(task, details))
            if task.newest.exited_at is not None:
                return uploaded
            # The report of the exit was lost on its way; this one repeats its facts.
            return _apply_exit(uploaded.advance(exited_at=moment), details, moment, files_part)
        case AttemptPhase.CANCELLED:
            return end_attempt(task, TaskStatus.CANCELLED, Outcome.CANCELLED, event.reason, moment)
        case AttemptPhase.REJECTED:
            reason = f"server {task.newest.server} refused: {event.reason}"
            ended = end_attempt(
                task, TaskStatus.ERROR, Outcome.FAILED_INFRASTRUCTURE, reason, moment
            )
            return _classify_refusal(ended, details)
        case AttemptPhase.LOST:
            ended = end_attempt(task, TaskStatus.LOST, Outcome.LOST, event.reason, moment)
            return _classify_refusal(ended, details)


def _classify_refusal(task: Task, details: Mapping[str, JsonValue]) -> Task:
    refusal = find_refusal(details)
    if refusal is None:
        return task
    classified = task.advance(failure_class=refusal.value)
    # No server can run what cannot be named; any other refusal is one server's.
    return classified.advance(is_retriable=False) if refusal is Refusal.NAME else classified


def refuse_phase(task: Task, event: PhaseChanged, *, problem: str, now: datetime) -> Task | None:
    """
    Say what a task becomes when a phase its agent reports cannot be put on record.

    :param problem: Why not.
    :return: The task with the least that is said of it; ``None`` if the event changes nothing.
    """
    # Nothing of its own words: they may be what cannot be put on record, or even be read.
    bare = event.model_copy(update={"details": {}, "reason": None})
    if apply_phase(task, bare, now=now) is None or task.is_ended:
        return None
    told = task.advance(phase=event.phase, last_event_at=now)
    return end_unusable(told, problem, _bound_time(task, event.at, now))


def _bound_time(task: Task, at: datetime, now: datetime) -> datetime:
    """Return when something happened by another's clock, but within the attempt's own life."""
    earliest = task.newest.intent_at or now
    return min(max(at, earliest - CLOCK_SKEW), now + CLOCK_SKEW)


def _find_image_digest(details: Mapping[str, JsonValue]) -> str | None:
    try:
        return PreparedFacts.model_validate(details).image_digest
    except ValidationError:
        return None


def _find_judged(task: Task, details: Mapping[str, JsonValue]) -> Judged | None:
    """Return what the judge of a server says of a training on data that only it holds."""
    if find_held_data(task.spec) is None or task.kind is not SlotClass.TRAINING:
        return None
    rules = build_rules(task.spec.data)
    try:
        said = ServerJudged.model_validate(details.get("judged"))
    except ValidationError:
        return refuse_judging(f"{task.newest.server} told no figures of its judge's", rules)
    return accept_server_judged(said, rules, server=str(task.newest.server))


def _apply_exit(
    task: Task,
    details: Mapping[str, JsonValue],
    at: datetime,
    files_part: StoredPart | None,
) -> Task:
    try:
        said = ExitFacts.model_validate(details)
        _check_size(said, task)
    except ValidationError as error:
        return end_unusable(task, describe_refusal(error), at)
    except ValueError as error:
        return end_unusable(task, str(error), at)
    if find_held_data(task.spec) is not None:
        # Its server sends none; what an agent lists all the same is none of ours.
        said = said.model_copy(update={"files": ()})
        files_part = None
    ending = judge_exit(said)
    files = (StoredFile.load(file.model_dump(mode="json")) for file in said.files)
    exited = task.advance(
        exit_code=said.exit_code,
        verdict=Verdict.load(said.verdict.dump()) if said.verdict else None,
        files=() if files_part else tuple(files),
        files_part=files_part,
    )
    cancel = task.newest.cancel
    if cancel is not None and ending.outcome is not Outcome.SUCCEEDED:
        return end_attempt(exited, TaskStatus.CANCELLED, Outcome.CANCELLED, cancel.reason, at)
    is_validation = task.kind is SlotClass.VALIDATION
    if is_validation and ending.failure_class == OUT_OF_MEMORY:
        # A training may fit a larger host; what validates has the same memory everywhere.
        ending = replace(ending, outcome=Outcome.FAILED_USER, is_retriable=False)
    if ending.failure_class == NO_DEVICE and not count_gpus(task.newest):
        # It costs nobody anything, so it is believed only of what was given a GPU.
        ending = replace(ending, outcome=Outcome.FAILED_USER, failure_class="unknown")
    judged = exited.advance(
        outcome=ending.outcome,
        failure_class=ending.failure_class,
        is_retriable=ending.is_retriable,
        reason=cut(ending.reason, MAX_REASON),
    )
    if ending.outcome is not Outcome.SUCCEEDED:
        return judged.advance(TaskStatus.ERROR, ended_at=at)
    done = judged.advance(percent=100, eta_seconds=0)
    if is_validation:
        # The verdict came with the event: nothing has to be published.
        return done.advance(TaskStatus.SUCCESS, ended_at=at)
    return done.advance(TaskStatus.UPLOADING)


def _check_size(said: ExitFacts, task: Task) -> None:
    limits = task.spec.limits
    most = limits.output_bytes + limits.console_bytes
    if sum(file.size for file in said.files) > most:
        raise ValueError(f"files: more than the {most} bytes that it may leave")


def end_unusable(task: Task, problem: str, at: datetime) -> Task:
    """
    Say what a task becomes whose attempt reports what nobody can use or keep.

    It ends here: told again, the same report would be the same, and its slot would be held for
    ever. The fault is with where it ran, which should have refused it, so another attempt may do
    better elsewhere.

    :param problem: What is wrong with the report.
    :param at: When it was reported, UTC.
    """
    cancel = task.newest.cancel
    if cancel is not None:
        return end_attempt(task, TaskStatus.CANCELLED, Outcome.CANCELLED, cancel.reason, at)
    where = task.newest.server or "its server"
    reason = build_line(f"{where} reported an end that makes no sense: {problem}")
    return end_attempt(task, TaskStatus.ERROR, Outcome.FAILED_INFRASTRUCTURE, reason, at)


def refuse_start(task: Task, *, fence: int, reason: str, now: datetime) -> Task | None:
    """
    Say what a task becomes when the command that would start its attempt can never be sent.

    :return: ``None`` if that attempt is not the newest any more, or has ended.
    """
    if task.fence != fence or task.is_ended:
        return None
    ended = end_attempt(task, TaskStatus.ERROR, Outcome.FAILED_USER, reason, now)
    return ended.advance(failure_class="config")


def end_attempt(
    task: Task, status: TaskStatus, outcome: Outcome, reason: str | None, at: datetime
) -> Task:
    """
    Return a task whose newest attempt has ended otherwise than by its container's exit.

    :param reason: One line; what is longer than a record keeps is cut off.
    """
    return task.advance(
        status,
        outcome=outcome,
        reason=cut(reason, MAX_REASON),
        failure_class=outcome.value,
        is_retriable=outcome in {Outcome.LOST, Outcome.FAILED_INFRASTRUCTURE},
        ended_at=at,
    )


def apply_progress(task: Task, event: Progress, *, now: datetime) -> Task | None:
    """
    Say what a task becomes by a progress report.

    Of an attempt that is being prepared it tells how far the pull of its image is.
    """
    if event.ref.fence != task.fence or task.status not in _UNDER_WAY:
        return None
    if find_held_data(task.spec) is not None and task.status is TaskStatus.RUNNING:
        # In the trainer's own words, which may be prices: its server tells none.
        return None
    return task.advance(
        percent=event.percent,
        progress_phase=event.phase,
        eta_seconds=event.eta_seconds,
        metrics=event.metrics,
        console_bytes=event.console_bytes,
        last_event_at=now,
    )


def declare_lost(
    task: Task, *, fence: int, reason: str, now: datetime, is_upload_lost: bool = False
) -> Task | None:
    """
    Say what a task becomes when nothing will be heard of its attempt any more.

    :param fence: The attempt that was judged; a newer one is left alone.
    :param is_upload_lost: Whether that holds for the files of a container that has ended well,
        too: usually they still come when the server is back.
    """
    if task.is_ended or not task.has_attempt or task.fence != fence:
        return None
    if task.status is TaskStatus.UPLOADING and not is_upload_lost:
        return None
    lost = task.advance(phase=AttemptPhase.LOST)
    return end_attempt(lost, TaskStatus.LOST, Outcome.LOST, reason, now)


def fail_publishing(
    task: Task, *, fence: int, outcome: Outcome, failure_class: str, reason: str, now: datetime
) -> Task | None:
    """
    Say what a task becomes when what its newest attempt has made cannot be published.

    :return: ``None`` if another attempt has taken its place.
    """
    if task.fence != fence:
        return None
    return task.advance(
        TaskStatus.ERROR,
        outcome=outcome,
        failure_class=failure_class,
        reason=reason,
        ended_at=now,
    )


def publish(task: Task, published: Published, *, fence: int, now: datetime) -> Task | None:
    """
    Say what a task becomes when what its newest attempt has made is published.

    :return: ``None`` if another attempt has taken its place.
    """
    if task.fence != fence:
        return None
    ended_at = task.newest.ended_at or now
    return task.advance(TaskStatus.SUCCESS, ended_at=ended_at, published=published)
