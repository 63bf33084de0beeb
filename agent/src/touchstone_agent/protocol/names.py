"""Names derived from an attempt's identity; the same on the control plane and on servers."""

from __future__ import annotations

import re

CONTAINER_PREFIX = "touchstone"
PREPARE_SUFFIX = "-prepare"
"""No attempt's name ends with it: that ends with a fence."""

_PART = re.compile(r"[a-z0-9][a-z0-9-]*")
_NUMBER = re.compile(r"[0-9]{1,10}")


def build_container_name(
    env: str, submission_id: str, task_id: str, attempt: int, fence: int
) -> str:
    """
    Name the container (or pod, or process group) of one attempt.

    Derived from the attempt alone, so that a process that died between deciding and doing finds
    what exists by looking for this name.

    :param env: Environment, for example ``dev``; keeps two environments on one host apart.
    :param submission_id: The submission.
    :param task_id: ``validation``, or ``i<interval>``.
    :param attempt: Airflow's try number, from 1.
    :param fence: The attempt's fence; higher outranks lower.
    :raises ValueError: If a part could not be told apart in the name, or would not be accepted
        by a container engine.
    """
    for part in (env, submission_id, task_id):
        if not _PART.fullmatch(part):
            raise ValueError(f"{part!r} cannot be part of a container name: use a-z, 0-9 and '-'")
    return f"{CONTAINER_PREFIX}-{env}-{submission_id}-{task_id}-{attempt}-{fence}"


def build_prepare_name(name: str) -> str:
    """Name the container that prepares what the container of an attempt needs."""
    return f"{name}{PREPARE_SUFFIX}"


def parse_container_name(env: str, name: str) -> tuple[str, str, int, int] | None:
    """
    Return what a name was built from: submission, task, attempt and fence.

    :param env: Environment; a name of another one is none of ours.
    :return: ``None`` if it was never built here.
    """
    prefix = build_prefix(env)
    parts = name.removeprefix(prefix).rsplit("-", 3)
    if not name.startswith(prefix) or len(parts) != 4:
        return None
    submission_id, task_id, attempt, fence = parts
    # Anybody may give a pod or a container a name that begins like ours.
    if not all(_PART.fullmatch(part) for part in (submission_id, task_id)):
        return None
    if not all(_NUMBER.fullmatch(part) for part in (attempt, fence)):
        return None
    found = submission_id, task_id, int(attempt), int(fence)
    # Task ids hold no dash, so only one split is possible; leading zeros were never written.
    return found if build_container_name(env, *found) == name else None


def build_prefix(env: str) -> str:
    """Return the prefix that every container of an environment has, and no other's."""
    return f"{CONTAINER_PREFIX}-{env}-"


def build_request_queue(server: str) -> str:
    """Return the name of the queue that carries START to a server."""
    return f"req-{server}.fifo"


def build_control_queue(server: str) -> str:
    """Return the name of the queue that carries CANCEL, GRANTS and SYNC to a server."""
    return f"ctl-{server}.fifo"


def build_event_queue(env: str) -> str:
    """Return the name of the queue on which all agents of an environment report."""
    return f"evt-{env}.fifo"
