"""
The attempts of a task: a new one, the earlier ones, and what each of them runs.

What a task becomes by what is reported of its newest attempt is in :mod:`touchstone.core.phases`;
whether another attempt follows it, in :mod:`touchstone.core.retries`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from decimal import Decimal

from touchstone.core.records.stored import set_all
from touchstone.core.records.tasks import Attempt, AttemptPlacement, Earlier, Task
from touchstone.core.schedule import Platform
from touchstone.core.states import TaskStatus
from touchstone.core.tasks import TaskSpec, choose_image
from touchstone_agent.protocol.messages import AttemptRef

MAX_REMEMBERED = 30
"""Newest attempts that are remembered with all that people look for."""

MAX_OUTLINES = 100
"""Attempts before those, of which only an outline is remembered: as many as Airflow tries at most
before somebody clears the task, so that every count is right."""

MAX_REASON = 1000
"""Longest reason that a record keeps of an end."""


OUT_OF_MEMORY = "oom"
"""Class of a failure for which only more memory helps."""

NO_DEVICE = "device"
"""Class of a failure for which another GPU helps: the trainer saw none where it was given one."""


def new_task(spec: TaskSpec, *, run_id: str, map_index: int, now: datetime) -> Task:
    """Return a task that waits for its first attempt."""
    return Task(
        submission_id=spec.submission_id,
        task_id=spec.task_id,
        kind=spec.kind,
        interval=spec.interval,
        model_group_id=spec.submission_id,
        map_index=map_index,
        status=TaskStatus.QUEUED,
        # With all its defaults: another version may have others.
        spec=set_all(spec),
        past=(),
        created_at=now,
        newest=Attempt(run_id=run_id).fill(),
    )


def renew_task(task: Task, spec: TaskSpec, *, run_id: str, map_index: int) -> Task:
    """
    Return what a task of an earlier run becomes when a new run wants it again.

    The fence goes up: whatever carries the old one is outranked from now on, and an event of it
    that comes late changes nothing.
    """
    newest = Attempt(
        run_id=run_id,
        fence=task.fence + 1,
        # Where it was last is shown until it is placed again.
        platform=task.newest.platform,
        server=task.newest.server,
    )
    return _remember(task).change(
        map_index=map_index, spec=set_all(spec), status=TaskStatus.QUEUED, newest=newest.fill()
    )


def remember_attempts(task: Task) -> tuple[Attempt, ...]:
    """Return the ended attempts, the newest one included if there was one."""
    known = len(task.past)
    return (*task.past, *(attempt.remember() for attempt in task.attempts[known:]))


def _remember(task: Task) -> Task:
    """
    Return a task whose newest attempt has become part of its history.

    A record has room for so much: of older attempts an outline is kept, and of those before them
    only how many they were and what they cost. What the counts or an open bill still need stays.
    """
    history = remember_attempts(task)
    older = len(history) - MAX_REMEMBERED
    dropped = older - MAX_OUTLINES
    earlier = task.earlier or Earlier(count=0, pods=0, usd=Decimal())
    kept = []
    for number, attempt in enumerate(history):
        pod = attempt.pod
        is_needed = (pod is not None and pod.is_rented) or (
            # Each of these has doubled the memory of all that follow in this run.
            attempt.failure_class == OUT_OF_MEMORY and attempt.run_id == task.run_id
        )
        if number < dropped and not is_needed:
            earlier = earlier.change(count=earlier.count + 1)
            if pod is not None:
                usd = earlier.usd + (Decimal() if pod.usd is None else pod.usd)
                earlier = earlier.change(pods=earlier.pods + 1, usd=usd)
        else:
            kept.append(attempt.outline() if number < older else attempt)
    return task.change(past=tuple(kept), earlier=earlier)


def find_attempts_of_run(task: Task) -> list[Attempt]:
    """Return the attempts that the task has had in its present run, the newest one included."""
    return [attempt for attempt in task.attempts if attempt.run_id in {None, task.run_id}]


def find_attempts_since_clear(task: Task) -> list[Attempt]:
    """Return those of its present run that came after somebody last cleared the task."""
    # A clear raises Airflow's limit of tries, a retry does not.
    limit = task.newest.max_tries
    return [attempt for attempt in find_attempts_of_run(task) if attempt.max_tries == limit]


def claim_attempt(
    task: Task,
    *,
    attempt: int,
    server: str,
    container_of: Callable[[AttemptRef], str],
    now: datetime,
    gpus: int = 0,
    placement: AttemptPlacement | None = None,
    platform: Platform = Platform.ON_PREM,
) -> Task:
    """
    Return a task with the intent to start an attempt, to be on record before anything is sent.

    :param attempt: Airflow's try number.
    :param server: The server it will go to.
    :param container_of: Function from the attempt's reference to its container's name.
    :param now: The time, UTC.
    :param gpus: GPUs that the server hands over.
    :param placement: Why it goes there, and what was expected of its wait.
    :param platform: What that server is; RunPod is one, too, whose every attempt has its own pod.
    :return: The task with a new newest attempt, whose fence outranks every older one.
    """
    fence = task.fence + 1
    ref = AttemptRef(
        submission_id=task.submission_id, task_id=task.task_id, attempt=attempt, fence=fence
    )
    is_pod = platform is Platform.RUNPOD
    newest = Attempt(
        run_id=task.run_id,
        number=attempt,
        fence=fence,
        server=server,
        platform=platform,
        # What a pod is, and what it runs, its order says.
        gpus=None if is_pod else gpus,
        image=None if is_pod else choose_image(task.spec.image, task.spec.image_cuda, gpus=gpus),
        container=container_of(ref),
        intent_at=now,
        placement=placement,
    )
    return _remember(task).change(status=TaskStatus.QUEUED, newest=newest.fill())


def count_gpus(attempt: Attempt) -> int:
    """Return how many GPUs an attempt holds: its server's, or its pod's."""
    if attempt.pod is not None:
        return int(bool(attempt.pod.gpu))
    if attempt.gpus is not None:
        return attempt.gpus
    # The version before wrote it down with the placement only.
    return (attempt.placement.gpus or 0) if attempt.placement else 0


def build_attempt_spec(task: Task) -> TaskSpec:
    """
    Return what the newest attempt runs: the task's spec, with more memory if it ran out of it.

    Each attempt that was ended for memory doubles it for the next one, which therefore needs a
    server that has as much.
    """
    # The newest attempt itself is not over yet, or it is the one that this is for.
    return _grow(
        task.spec, [each for each in find_attempts_of_run(task) if each.fence != task.fence]
    )


def build_next_spec(task: Task) -> TaskSpec:
    """Return what the next attempt will run: the newest one is history by then."""
    return _grow(task.spec, find_attempts_of_run(task))


def _grow(spec: TaskSpec, ended: Iterable[Attempt]) -> TaskSpec:
    times = sum(attempt.failure_class == OUT_OF_MEMORY for attempt in ended)
    if not times:
        return spec
    memory_mib = spec.limits.memory_mib * 2**times
    return spec.model_copy(
        update={"limits": spec.limits.model_copy(update={"memory_mib": memory_mib})}
    )
