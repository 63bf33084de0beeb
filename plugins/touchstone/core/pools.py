"""Names of the Airflow pools, whose slots are the one truth about what may run where."""

from __future__ import annotations

from typing import Final

QUEUE_POOL: Final = "touchstone_queue"
"""For pending tasks: it has no slots, so a task starts only once the dispatcher has placed it."""

PRESTAGED_POOL: Final = "touchstone_deck"
"""Unlimited: the next few trainings wait here, deferred and bound to nothing, for a slot."""

FINISH_POOL: Final = "touchstone_finish"
"""Unlimited: what must run on a worker after a container has ended."""

RUNPOD_POOL: Final = "runpod"
"""Pods at a time."""
RUNPOD_WHAT: Final = "Pods at a time at RunPod; 0 rents no more"

UNLIMITED: Final = -1

_VALIDATION_SUFFIX = "_validation"


def build_validation_pool(server: str) -> str:
    """Return the pool of a server's validations, which trainings never take."""
    return server + _VALIDATION_SUFFIX


def describe_pool(server: str, *, is_validation: bool, what: str = "") -> str:
    """
    Return what a server's pool says of itself on Airflow's page of pools.

    :param what: The server's own description; empty for none.
    """
    kind = "Validation" if is_validation else "Training"
    more = f" ({what})" if what else ""
    return f"{kind} slots of server {server}; 0 drains it{more}"


def build_pool(server: str, *, is_validation: bool) -> str:
    """Return the pool of one kind of work on a server; ``runpod`` has but one."""
    return build_validation_pool(server) if is_validation and server != RUNPOD_POOL else server
