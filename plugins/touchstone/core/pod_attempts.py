"""
The record of an attempt's pod, from the intent to rent one to the proof that it is gone.

As in ``core.phases``, every function takes the task as it is and returns the task as it becomes,
or ``None`` when there is nothing to change. A pod belongs to one attempt, and stays on record with
it when a newer attempt takes its place: somebody must still see it gone, and it costs what it
costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from touchstone.core.offers import Candidate
from touchstone.core.outcomes import Outcome
from touchstone.core.phases import end_attempt
from touchstone.core.pods import Pod, compute_cost
from touchstone.core.records.tasks import Attempt, PodProblem, PodRecord, Task
from touchstone.core.retries import RENTAL_CLASSES
from touchstone.core.states import TaskStatus
from touchstone_agent.protocol.messages import AttemptPhase


@dataclass(frozen=True)
class Problem:
    """
    Why an attempt cannot go on in its pod, or gets none.

    :param failure_class: One word; see :data:`~touchstone.core.retries.RENTAL_CLASSES`.
    :param reason: One line for the engineer.
    """

    failure_class: str
    reason: str


def list_pods(task: Task) -> Iterator[tuple[int, PodRecord]]:
    """Yield every pod of a task with its attempt's fence, oldest attempt first."""
    for attempt in (*task.past, task.newest):
        if attempt.pod is not None:
            yield attempt.fence, attempt.pod


def find_pod(task: Task, fence: int) -> PodRecord | None:
    """Return the pod of one of a task's attempts, also of an older one."""
    return next((pod for number, pod in list_pods(task) if number == fence), None)


def find_pod_id(task: Task, fence: int) -> str | None:
    """Return RunPod's id of an attempt's pod; ``None`` if it has no pod, or none is known yet."""
    pod = find_pod(task, fence)
    return pod.id if pod else None


def find_attempt_with_pod(task: Task, fence: int) -> Attempt | None:
    """Return one of a task's attempts, if it has a pod."""
    attempts = (task.newest, *task.past)
    return next((each for each in attempts if each.fence == fence and each.pod is not None), None)


def describe_pod(pod: PodRecord) -> str:
    """Return what was rented, as people call it: its GPU, or its CPU."""
    return describe_hardware(gpu=pod.gpu, cpu=pod.cpu, vcpus=pod.vcpus)


def describe_hardware(*, gpu: str | None, cpu: str | None, vcpus: int | None) -> str:
    """Return a pod's hardware as people call it; a pod of the version before had a GPU."""
    return f"CPU {cpu}, {vcpus} vCPU" if cpu else str(gpu)


def compute_pod_cost(pod: PodRecord, now: datetime) -> tuple[Decimal, bool]:
    """Return what a pod has cost so far, in USD, and whether it still costs."""
    if pod.usd is not None:
        return pod.usd, False
    if not pod.id:
        return Decimal(), False
    lasted = (now - pod.ordered_at).total_seconds()
    return compute_cost(pod.price_per_hour, lasted), True


def sum_earlier(task: Task) -> Decimal | None:
    """Return what the pods of attempts have cost that are not listed any more; ``None`` if none."""
    return task.earlier.usd if task.earlier and task.earlier.pods else None


def may_rent(task: Task, fence: int) -> bool:
    """Tell whether an attempt still wants a pod: it is the newest, goes on, and nobody ends it."""
    return task.fence == fence and not task.is_ended and task.newest.cancel is None


def note_order(
    task: Task,
    candidate: Candidate,
    *,
    image: str,
    fence: int,
    life_seconds: int,
    now: datetime,
) -> Task | None:
    """
    Return a task with what is about to be ordered, to be on record before it is.

    :param candidate: What will be asked for; of several tries within an attempt the last one.
    :param image: The container image that it is to be.
    :param life_seconds: How long the pod may live at most; with the price the worst that it costs.
    :return: ``None`` if the attempt wants no pod any more, or has one: nothing may be ordered then.
    """
    if not may_rent(task, fence) or (task.newest.pod is not None and task.newest.pod.id):
        return None
    pod = PodRecord(
        name=str(task.newest.container),
        ordered_at=now,
        gpu=candidate.gpu,
        cpu=candidate.cpu,
        vcpus=candidate.vcpus,
        cloud=candidate.cloud.value,
        data_center=candidate.data_center,
        price_per_hour=candidate.price_per_hour,
        life_seconds=life_seconds,
    )
    return task.advance(image=image, pod=pod.mark_set(frozenset(PodRecord.model_fields)))


def note_pod(task: Task, pod: Pod, *, fence: int, now: datetime) -> Task | None:
    """
    Return a task with which pod the order has become, by the API's own words.

    :return: ``None`` if it was known, or given up: a caller that finds another id on record, or
        none, must release this pod.
    """
    known = find_pod(task, fence)
    if known is None or known.id or known.gone_at:
        return None  # it has one, or was given up
    found = known.change(
        id=pod.id,
        gpu=pod.gpu or known.gpu,
        cloud=pod.cloud.value if pod.cloud else known.cloud,
        data_center=pod.data_center or known.data_center,
        created_at=pod.created_at or now,
    )
    if pod.price_per_hour:
        found = found.change(price_per_hour=pod.price_per_hour)
    return _put_pod(task, fence, found)


def note_refusal(task: Task, problem: Problem, *, fence: int, now: datetime) -> Task | None:
    """
    Return a task with the word that no order became a pod.

    :return: ``None`` if one did: another driver of the attempt was faster, and its pod is good.
    """
    if find_pod_id(task, fence):
        return None
    return note_ending(task, fence=fence, now=now, problem=problem)


def note_login(task: Task, *, fence: int, address: str, boot_id: str, now: datetime) -> Task | None:
    """Return a task with who has logged in to the pod first, where, and to which boot of it."""
    known = find_pod(task, fence)
    if known is None or (known.address, known.boot_id) == (address, boot_id):
        return None
    login_at = known.login_at or now
    return _put_pod(task, fence, known.change(address=address, boot_id=boot_id, login_at=login_at))


def note_ending(
    task: Task, *, fence: int, now: datetime, problem: Problem | None = None
) -> Task | None:
    """
    Return a task whose pod is to be given back, to be on record before that is asked for.

    :param problem: Why, if it is not because the attempt has ended or somebody ends it.
    """
    known = find_pod(task, fence)
    if known is None or known.ending_at:
        return None
    told = (
        PodProblem(failure_class=problem.failure_class, reason=problem.reason) if problem else None
    )
    return _put_pod(task, fence, known.change(ending_at=now, problem=told))


def note_gone(task: Task, *, fence: int, seconds: int, usd: Decimal, now: datetime) -> Task | None:
    """
    Return a task with the proof that the pod is gone, and what it has cost.

    :param seconds: What it is billed for, by our own clock; 0 for an order that became no pod.
    :param usd: What that costs.
    """
    known = find_pod(task, fence)
    if known is None or known.gone_at:
        return None
    return _put_pod(
        task,
        fence,
        known.change(ending_at=known.ending_at or now, gone_at=now, seconds=seconds, usd=usd),
    )


def note_bill(task: Task, *, fence: int, usd: Decimal) -> Task | None:
    """Return a task with what RunPod itself says that the pod has cost."""
    known = find_pod(task, fence)
    # As text: an amount of other decimals is another word of RunPod's.
    if known is None or (known.is_billed and str(known.usd) == str(usd)):
        return None
    return _put_pod(task, fence, known.change(usd=usd, is_billed=True))


def close_attempt(
    task: Task, *, fence: int, now: datetime, problem: Problem | None = None
) -> Task | None:
    """
    Say what a task becomes when its pod is gone, or when none could be had.

    :param problem: Why none could be had; ``None`` for what is on record with the pod.
    :return: ``None`` if the attempt has ended by itself before.
    """
    if task.fence != fence or task.is_ended:
        return None
    newest = task.newest
    told = newest.pod.problem if newest.pod else None
    found = problem or (Problem(told.failure_class, told.reason) if told else None)
    if found is None and newest.outcome is Outcome.SUCCEEDED:
        return None  # its files are stored, and wait to be published
    if newest.cancel is not None:
        cancelled = task.advance(phase=AttemptPhase.CANCELLED)
        reason = newest.cancel.reason
        return end_attempt(cancelled, TaskStatus.CANCELLED, Outcome.CANCELLED, reason, now)
    found = found or Problem("pod", "its pod was given back before it had ended")
    # A refusal says nothing against RunPod as a place: the next attempt may go there again.
    is_refusal = found.failure_class in RENTAL_CLASSES
    refused = task.advance(phase=AttemptPhase.REJECTED if is_refusal else AttemptPhase.LOST)
    ended = end_attempt(refused, TaskStatus.ERROR, Outcome.FAILED_INFRASTRUCTURE, found.reason, now)
    return ended.advance(failure_class=found.failure_class)


def _put_pod(task: Task, fence: int, pod: PodRecord) -> Task:
    if task.fence == fence:
        return task.advance(pod=pod)
    return task.change(
        past=tuple(
            attempt.change(pod=pod) if attempt.fence == fence and attempt.pod else attempt
            for attempt in task.past
        )
    )
