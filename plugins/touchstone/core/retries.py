"""Whether another attempt follows one that has ended, and how the Airflow task that waits ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from touchstone.core.attempts import NO_DEVICE, OUT_OF_MEMORY, find_attempts_since_clear
from touchstone.core.outcomes import Outcome
from touchstone.core.records.tasks import Attempt, Task
from touchstone_agent.protocol.messages import AttemptPhase, SlotClass

RENTAL_CLASSES = frozenset({"capacity", "funds", "budget", "account", "order"})
"""Classes of failures to rent a pod: nothing has run, and nobody has failed."""


def is_fulfilled(task: Task) -> bool:
    """
    Tell whether an attempt has come to what it was for.

    That is its models, or, of a validation, a verdict, good or bad: ``accept`` reads it.
    """
    outcome = task.newest.outcome
    is_judged = task.kind is SlotClass.VALIDATION and outcome is Outcome.FAILED_USER
    return outcome is Outcome.SUCCEEDED or is_judged


class WaitEnd(StrEnum):
    """What a trigger does when its attempt has ended."""

    SUCCEED = "succeed"
    RETRY = "retry"
    FAIL = "fail"


MAX_USER_FAILURES = 3

MAX_OUT_OF_MEMORY = 2
"""Attempts that may fail by the user's code, and for memory; other hosts' faults never count."""

MAX_BLAMED = 5
"""Attempts that may end by what the container says of its machine, for each class of that: no GPU,
no data, a repository away. Submitted code could say so as well, and be tried for ever."""

_BLAMES = frozenset({NO_DEVICE, "data", "temporary", "aborted"})

MAX_VALIDATIONS = 3
"""Attempts of a validation, whatever failed; what no server and no pod took was no attempt."""


def is_unrented(attempt: Attempt) -> bool:
    """Tell whether no pod was to be had for an attempt; the class alone may be submitted code's."""
    has_run = attempt.running_at is not None or attempt.exit_code is not None
    return attempt.failure_class in RENTAL_CLASSES and not has_run


def is_untaken(attempt: Attempt) -> bool:
    """Tell whether an attempt came to nothing because no server and no pod took it."""
    return attempt.phase is AttemptPhase.REJECTED or is_unrented(attempt)


def may_retry(task: Task) -> bool:
    """Tell by the counts of its attempts whether a failed task gets another one."""
    if not task.newest.is_retriable:
        return False
    ended = find_attempts_since_clear(task)
    if task.kind is SlotClass.VALIDATION:
        # A submitter waits for a verdict, and should soon know that there will be none.
        had = sum(not is_untaken(attempt) for attempt in ended)
        return had < MAX_VALIDATIONS
    by_user = sum(attempt.outcome is Outcome.FAILED_USER for attempt in ended)
    by_memory = sum(attempt.failure_class == OUT_OF_MEMORY for attempt in ended)
    return (
        by_user < MAX_USER_FAILURES
        and by_memory < MAX_OUT_OF_MEMORY
        and max(_count_blames(ended).values(), default=0) < MAX_BLAMED
    )


def _count_blames(ended: Iterable[Attempt]) -> Counter[str]:
    """
    Count by class how often a container blamed its machine once submitted code was in it.

    What ends before that, as a preparation does without its repository, can be no code's word, and
    an end that nobody saw is not the container's. Classes that nobody knows are one.
    """
    return Counter(
        failure if (failure := str(attempt.failure_class)) in _BLAMES else "other"
        for attempt in ended
        if attempt.outcome is Outcome.FAILED_INFRASTRUCTURE
        and attempt.failure_class != OUT_OF_MEMORY
        and attempt.running_at is not None
        and attempt.exit_code is not None
    )


def find_end(task: Task, *, fence: int, run_id: str) -> WaitEnd | None:
    """
    Say how the Airflow task that waits for an attempt ends.

    A validation succeeds as soon as there is a verdict. A training ends when its container has
    exited; its uploads go on behind it.

    :param fence: The attempt that is waited for; it may be the next one, of a prestaged task.
    :param run_id: The DAG run that waits; what another run has taken over is not retried.
    :return: ``None`` while there is something to wait for. ``RETRY`` for what another attempt
        may mend, ``FAIL`` for what no attempt will.
    """
    if task.run_id != run_id:
        return WaitEnd.FAIL
    if task.fence > fence:
        return WaitEnd.RETRY
    if task.fence < fence:
        return None
    outcome, pod = task.newest.outcome, task.newest.pod
    if outcome is None or (pod is not None and pod.is_rented):
        # A pod is billed until it is gone, so it holds its slot until then.
        return None
    if is_fulfilled(task):
        return WaitEnd.SUCCEED
    if outcome is Outcome.CANCELLED:
        return WaitEnd.FAIL
    return WaitEnd.RETRY if may_retry(task) else WaitEnd.FAIL


@dataclass(frozen=True, kw_only=True)
class Failure:
    """
    What a task says of an attempt that no other can mend.

    :param outcome: How it ended.
    :param failure_class: The kind of failure.
    :param reason: Why, in one line.
    """

    outcome: str | None
    failure_class: str | None
    reason: str | None


def build_failure(task: Task) -> Failure:
    """Return what a task says of an attempt that no other can mend."""
    newest = task.newest
    return Failure(
        outcome=newest.outcome.value if newest.outcome else None,
        failure_class=newest.failure_class,
        reason=newest.reason,
    )


def find_settled(task: Task, *, run_id: str, attempt: int, max_tries: int) -> WaitEnd | None:
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
    newest = task.newest
    if task.run_id != run_id or not 0 < newest.number < attempt or newest.max_tries != max_tries:
        return None
    end = find_end(task, fence=task.fence, run_id=run_id)
    return None if end is WaitEnd.RETRY else end
