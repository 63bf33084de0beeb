"""
What is on record of an attempt's pod: from the wish to rent one to the proof that it is gone.

As in ``core.attempts``, every function takes the record as it is and returns the fields to set, or
``None`` when there is nothing to change. A pod belongs to one attempt, and stays on record with it
when a newer attempt takes its place: somebody must still see it gone, and it costs what it costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from touchstone.core.attempts import RENTAL_CLASSES, Record, is_ended, is_rented
from touchstone.core.outcomes import Outcome
from touchstone.core.pods import Candidate, Pod, compute_cost
from touchstone.core.states import TaskStatus
from touchstone_agent.protocol.messages import AttemptPhase

__all__ = [
    "Problem",
    "close_attempt",
    "compute_pod_cost",
    "describe_pod",
    "find_pod",
    "is_rented",
    "list_pods",
    "may_rent",
    "note_bill",
    "note_ending",
    "note_gone",
    "note_login",
    "note_order",
    "note_pod",
    "note_refusal",
    "sum_earlier",
]


@dataclass(frozen=True)
class Problem:
    """
    Why an attempt cannot go on in its pod, or gets none.

    :param failure_class: One word; see :data:`~touchstone.core.attempts.RENTAL_CLASSES`.
    :param reason: One line for the engineer.
    """

    failure_class: str
    reason: str


def list_pods(record: Record) -> Iterator[tuple[int, Record]]:
    """Yield every pod of a task with its attempt's fence, oldest attempt first."""
    for item in [*(record.get("attempts") or ()), record]:
        if item.get("pod"):
            yield int(item["fence"]), item["pod"]


def find_pod(record: Record, fence: int) -> Record | None:
    """Return the pod of one of a task's attempts, also of an older one."""
    return next((pod for number, pod in list_pods(record) if number == fence), None)


def describe_pod(pod: Record) -> str:
    """Return what was rented, as people call it: its GPU, or its CPU."""
    # Pods of the version before have no word of a CPU: they had GPUs.
    return f"CPU {pod['cpu']}, {pod['vcpus']} vCPU" if pod.get("cpu") else str(pod["gpu"])


def compute_pod_cost(pod: Record, now: datetime) -> tuple[Decimal, bool]:
    """Return what a pod has cost so far, in USD, and whether it still costs."""
    if pod.get("usd") is not None:
        return Decimal(str(pod["usd"])), False
    if not pod.get("id"):
        return Decimal(), False
    lasted = (now - datetime.fromisoformat(pod["ordered_at"])).total_seconds()
    return compute_cost(Decimal(str(pod["price_per_hour"])), lasted), True


def sum_earlier(record: Record) -> Decimal | None:
    """Return what the pods of attempts have cost that are not listed any more; ``None`` if none."""
    earlier = record.get("earlier") or {}
    return Decimal(str(earlier["usd"])) if earlier.get("pods") else None


def may_rent(record: Record, fence: int) -> bool:
    """Tell whether an attempt still wants a pod: it is the newest, goes on, and nobody ends it."""
    return bool(record["fence"] == fence and not is_ended(record) and not record.get("cancel"))


def note_order(
    record: Record,
    candidate: Candidate,
    *,
    image: str,
    fence: int,
    life_seconds: int,
    now: datetime,
) -> Record | None:
    """
    Write down what is about to be ordered, before it is.

    :param candidate: What will be asked for; of several tries within an attempt the last one.
    :param image: The container image that it is to be.
    :param life_seconds: How long the pod may live at most; with the price the worst that it costs.
    :return: ``None`` if the attempt wants no pod any more, or has one: nothing may be ordered then.
    """
    if not may_rent(record, fence) or (record.get("pod") or {}).get("id"):
        return None
    return {
        "image": image,
        "pod": {
            "name": record["container"],
            "id": None,
            "ordered_at": now.isoformat(),
            "gpu": candidate.gpu,
            "cpu": candidate.cpu,
            "vcpus": candidate.vcpus,
            "cloud": candidate.cloud.value,
            "data_center": candidate.data_center,
            "price_per_hour": str(candidate.price_per_hour),
            "life_seconds": life_seconds,
            "created_at": None,
            "login_at": None,
            "address": None,
            "boot_id": None,
            "ending_at": None,
            "gone_at": None,
            "seconds": None,
            "usd": None,
            "is_billed": False,
            "problem": None,
        },
    }


def note_pod(record: Record, pod: Pod, *, fence: int, now: datetime) -> Record | None:
    """
    Write down which pod the order has become, by the API's own words.

    :return: ``None`` if it was known, or given up: whoever finds another id on record, or none,
        must give this pod back.
    """
    known = find_pod(record, fence)
    if known is None or known.get("id") or known.get("gone_at"):
        return None  # it has one, or was given up
    facts: Record = {
        "id": pod.id,
        "gpu": pod.gpu or known["gpu"],
        "cloud": pod.cloud.value if pod.cloud else known["cloud"],
        "data_center": pod.data_center or known["data_center"],
        "created_at": (pod.created_at or now).isoformat(),
    }
    if pod.price_per_hour:
        facts["price_per_hour"] = str(pod.price_per_hour)
    return _change(record, fence, facts)


def note_refusal(record: Record, problem: Problem, *, fence: int, now: datetime) -> Record | None:
    """
    Write down that no order became a pod.

    :return: ``None`` if one did: another driver of the attempt was faster, and its pod is good.
    """
    if (find_pod(record, fence) or {}).get("id"):
        return None
    return note_ending(record, fence=fence, now=now, problem=problem)


def note_login(
    record: Record, *, fence: int, address: str, boot_id: str, now: datetime
) -> Record | None:
    """Write down that somebody has logged in to the pod, where, and to which boot of it."""
    known = find_pod(record, fence)
    if known is None or (known.get("address"), known.get("boot_id")) == (address, boot_id):
        return None
    at = known.get("login_at") or now.isoformat()
    return _change(record, fence, {"address": address, "boot_id": boot_id, "login_at": at})


def note_ending(
    record: Record, *, fence: int, now: datetime, problem: Problem | None = None
) -> Record | None:
    """
    Write down that the pod is to be given back, before that is asked for.

    :param problem: Why, if it is not because the attempt has ended or somebody ends it.
    """
    known = find_pod(record, fence)
    if known is None or known.get("ending_at"):
        return None
    told = {"class": problem.failure_class, "reason": problem.reason} if problem else None
    return _change(record, fence, {"ending_at": now.isoformat(), "problem": told})


def note_gone(
    record: Record, *, fence: int, seconds: int, usd: Decimal, now: datetime
) -> Record | None:
    """
    Write down that the pod is proven gone, and what it has cost.

    :param seconds: What it is billed for, by our own clock; 0 for an order that became no pod.
    :param usd: What that costs.
    """
    known = find_pod(record, fence)
    if known is None or known.get("gone_at"):
        return None
    facts = {"gone_at": now.isoformat(), "seconds": seconds, "usd": str(usd)}
    return _change(record, fence, {"ending_at": known.get("ending_at") or now.isoformat()} | facts)


def note_bill(record: Record, *, fence: int, usd: Decimal) -> Record | None:
    """Write down what RunPod itself says that the pod has cost."""
    known = find_pod(record, fence)
    if known is None or (known.get("is_billed") and known.get("usd") == str(usd)):
        return None
    return _change(record, fence, {"usd": str(usd), "is_billed": True})


def close_attempt(
    record: Record, *, fence: int, now: datetime, problem: Problem | None = None
) -> Record | None:
    """
    Say what a task becomes when its pod is gone, or when none could be had.

    :param problem: Why none could be had; ``None`` for what is on record with the pod.
    :return: ``None`` if the attempt has ended by itself before.
    """
    if record["fence"] != fence or is_ended(record):
        return None
    told = (record.get("pod") or {}).get("problem")
    found = problem or (Problem(told["class"], told["reason"]) if told else None)
    if found is None and record.get("outcome") == Outcome.SUCCEEDED:
        return None  # its files are stored, and wait to be published
    if record.get("cancel"):
        return {
            "phase": AttemptPhase.CANCELLED.value,
            "status": TaskStatus.CANCELLED.value,
            "outcome": Outcome.CANCELLED.value,
            "reason": record["cancel"]["reason"],
            "failure_class": Outcome.CANCELLED.value,
            "is_retriable": False,
            "ended_at": now.isoformat(),
        }
    found = found or Problem("pod", "its pod was given back before it had ended")
    # A refusal says nothing against RunPod as a place: the next attempt may go there again.
    is_refusal = found.failure_class in RENTAL_CLASSES
    return {
        "phase": (AttemptPhase.REJECTED if is_refusal else AttemptPhase.LOST).value,
        "status": TaskStatus.ERROR.value,
        "outcome": Outcome.FAILED_INFRASTRUCTURE.value,
        "reason": found.reason,
        "failure_class": found.failure_class,
        "is_retriable": True,
        "ended_at": now.isoformat(),
    }


def _change(record: Record, fence: int, facts: dict[str, Any]) -> Record:
    if record["fence"] == fence:
        return {"pod": {**record["pod"], **facts}}
    return {
        "attempts": [
            {**item, "pod": {**item["pod"], **facts}} if item.get("fence") == fence else item
            for item in record["attempts"]
        ]
    }
